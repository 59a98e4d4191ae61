"""What a user did wrong, said in one line."""


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. From Python it is an
    ordinary exception. What cannot happen is an ``assert`` instead.
    """


class ImageError(UserError):
    """One image that cannot be read: ``key`` names it, ``reason`` says why.

    Long work over many images catches it, counts the image as skipped, and lists it at the end.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:  # crosses worker processes
        return type(self), (self.key, self.reason)


class OldFormatError(UserError):
    """A file that an older Pretint wrote, which this one does not read."""


def check_format(path: object, found: object, wanted: str) -> None:
    """Refuse the file of an older Pretint; other formats are for the caller to refuse.

    Args:
        path: of the file, for the message.
        found: the format that it names: "pretint KIND NUMBER".
        wanted: the format that this version writes. Version 0.1.0 wrote number 1 of every kind.

    Raises:
        OldFormatError: ``found`` is number 1 of the wanted kind, and another is wanted.
    """
    if found != wanted and found == f"{wanted.rpartition(' ')[0]} 1":
        raise OldFormatError(
            f"{path}: written by Pretint 0.1.0, whose files this version cannot read; make it again, or use 0.1.0"
        )


class RankGone(UserError):
    """Another process of the same run is gone. The same command goes on: it exits with 75, not with 2."""


class ReportedElsewhere(UserError):
    """An error that another process of the same run reports: this one only ends."""
