"""`python -m cli`: a known error is one message on stderr and exit code 1; Ctrl-C is exit code 130."""

import sys

from setproctitle import setproctitle

from domain.errors import FlashgateError


def run() -> int:
    """Run the command line and return its exit code."""
    try:
        # Loading the rest takes a second, in which Ctrl-C must not end in a traceback either.
        from cli.main import main  # noqa: PLC0415

        setproctitle(" ".join(("flashgate:", *sys.argv[1:2])))
        main()
    except FlashgateError as error:
        sys.stderr.write(f"flashgate: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
