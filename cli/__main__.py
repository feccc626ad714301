"""`python -m cli`: a known error is one message on stderr and exit code 1; Ctrl-C is exit code 130."""

import sys

from setproctitle import setproctitle

from domain.errors import BackendError, FlashgateError


def run() -> int:
    """Run the command line and return its exit code."""
    try:
        # Loading the rest takes a second, in which Ctrl-C must not end in a traceback either.
        from cli.main import main  # noqa: PLC0415

        setproctitle(" ".join(("flashgate:", *sys.argv[1:2])))
        main()
    except FlashgateError as error:
        sys.stderr.write(f"flashgate: {error}{_advice(error)}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _advice(error: FlashgateError) -> str:
    """Return what to do about a server that is not there, if none was started here."""
    if not isinstance(error, BackendError):
        return ""
    from stack.runtime import read_runtime  # noqa: PLC0415

    return "" if read_runtime() else "\nNo local servers are running: `./flashgate up` starts everything."


if __name__ == "__main__":
    sys.exit(run())
