"""`consume redemptions` on a topic of its own, as a process that kills itself at a fail point.

Usage: python -m bench.saga_process TOPIC [FAIL_POINT], with the settings in the environment.
"""

import os
import signal
import sys

from consumers.app import main_redemptions
from domain import failpoints
from domain.settings import load_settings


def main() -> None:
    """Run until the fail point is reached, or until told to stop."""
    topic, *points = sys.argv[1:]

    def kill_at(name: str) -> None:
        if name in points:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = kill_at
    main_redemptions(load_settings(env=os.environ), topic=topic)


if __name__ == "__main__":
    main()
