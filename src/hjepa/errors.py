"""The exceptions that a user may see."""


class UserError(ValueError):
    """An error that the user can fix, described in one line: what, which value, and what to do.

    The command line prints the message and exits with code 2; in Python it is a ``ValueError``.
    """


class UnreadableImage(UserError):
    """An image file that is damaged, gone, or not an image; ``problem`` says which, without its name and advice."""

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem
