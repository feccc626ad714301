"""What can go wrong with local servers. Each message says what to do or shows the server's own words."""

from domain.errors import BackendError, FlashgateError


class StackError(FlashgateError):
    """A local server cannot be set up."""


class MissingPackagesError(StackError):
    """Programs are missing and may not be installed from here; the message names the command to run."""


class StackInUseError(StackError):
    """Another process runs servers on the same home."""

    retryable = True


class StartAbortedError(StackError):
    """`Supervisor.stop` was called while a start was under way."""


class ChildFailed(BackendError):  # noqa: N818 -- it states what happened, as CancelledError does
    """A child died or did not become ready.

    Attributes:
        name: the child's name.
        code: its exit code; negative: minus the signal; None: it ran, but did not become ready.
        tail: the last lines that it wrote.
    """

    def __init__(self, name: str, code: int | None, tail: tuple[str, ...]) -> None:
        self.name = name
        self.code = code
        self.tail = tail
        what = "did not become ready in time" if code is None else f"failed with exit code {code}"
        super().__init__("\n    ".join((f"{name} {what}", *tail)))
