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


class PartnerGone(UserError):
    """Another process of the same run is gone. The same command goes on: it exits with 75, not with 2."""


class SaidElsewhere(UserError):
    """An error that another process of the same run reports: this one only ends."""
