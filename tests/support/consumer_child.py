"""The writer in a process of its own that kills itself at a fail point.

Usage: python -m tests.support.consumer_child TOPIC FAIL_POINT, with the settings in the environment.
"""

import os
import signal
import sys

from consumers.app import main_orders
from domain import failpoints
from domain.settings import load_settings
from tests import switches


def main() -> None:
    """Run until the fail point is reached."""
    topic, fail_point = sys.argv[1:]
    switches.apply_from_environment()

    def kill_at(name: str) -> None:
        if name == fail_point:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = kill_at
    main_orders(load_settings(env=os.environ), topic=topic)


if __name__ == "__main__":
    main()
