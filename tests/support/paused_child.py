"""Any flashgate command as a process that stops itself (SIGSTOP) when it first reaches a fail point.

Usage: python -m tests.support.paused_child FAIL_POINT COMMAND [ARG …], with the settings in the environment. SIGCONT
wakes it up again.
"""

import os
import signal
import sys

from cli.main import main
from domain import failpoints
from tests import switches


def run() -> None:
    """Run, and stop once."""
    fail_point, *sys.argv[1:] = sys.argv[1:]
    switches.apply_from_environment()

    def stop_at(name: str) -> None:
        if name == fail_point:
            failpoints.hook = None
            os.kill(os.getpid(), signal.SIGSTOP)

    failpoints.hook = stop_at
    main()


if __name__ == "__main__":
    run()
