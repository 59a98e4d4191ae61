"""Errors that the user can correct, each with a message of one line."""


class UserError(Exception):
    """A mistake of the user: the message is one line about what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. From Python it is an
    ordinary exception. Errors in the program itself are an ``assert`` instead.
    """


class ImageError(UserError):
    """An image that cannot be read: its ``key``, and the ``reason``.

    Work over many images catches it, counts the image as skipped, and lists it at the end.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:  # crosses worker processes
        return type(self), (self.key, self.reason)


class OldFormatError(UserError):
    """A file of an older version of Pretint that this version does not read."""


def check_format(path: object, file_format: object, wanted: str) -> None:
    """Raise an error for a file of an older Pretint; the caller must check for other formats.

    Args:
        path: the file, for the message.
        file_format: the format in the file: "pretint KIND NUMBER".
        wanted: the format that this version writes. Version 0.1.0 wrote number 1 of every kind.

    Raises:
        OldFormatError: ``file_format`` is number 1 of the wanted kind, and another number is wanted.
    """
    if file_format != wanted and file_format == f"{wanted.rpartition(' ')[0]} 1":
        raise OldFormatError(
            f"{path}: written by Pretint 0.1.0; this version cannot read its files; make it again, or use 0.1.0"
        )


class RankGone(UserError):
    """Another process of the same run has ended. The same command can resume, so the exit code is 75, not 2."""


class ReportedElsewhere(UserError):
    """An error that another process of the same run reports: this process ends without a message."""


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, without its period; the error's type if the message is empty."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
