"""Any flashgate command as a process that kills itself at a fail point, with the switches applied.

Usage: python -m tests.support.child FAIL_POINT COMMAND [ARG …], with the settings in the environment.
"""

import os
import signal
import sys

from cli.main import main
from domain import failpoints
from tests import switches


def run() -> None:
    """Run until the fail point is reached."""
    fail_point, *sys.argv[1:] = sys.argv[1:]
    switches.apply_from_environment()

    def kill_at(name: str) -> None:
        if name == fail_point:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = kill_at
    main()


if __name__ == "__main__":
    run()
