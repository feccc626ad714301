"""The writer in a process of its own that kills or stops itself at a fail point.

Usage: python -m tests.support.consumer_child TOPIC FAIL_POINT kill|stop [orders|points|redemptions], with the settings
in the environment. One that has stopped itself goes on at SIGCONT, and does not stop again.
"""

import os
import signal
import sys

from consumers.app import ORDERS, POINTS, REDEMPTIONS, main_orders, main_points, main_redemptions
from domain import failpoints
from domain.settings import load_settings
from tests import switches


def main() -> None:
    """Run until the fail point is reached."""
    topic, fail_point, what, *names = sys.argv[1:]
    signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
    reached = False
    switches.apply_from_environment()

    def end_at(name: str) -> None:
        nonlocal reached
        if name == fail_point and not reached:
            reached = True
            os.kill(os.getpid(), signals[what])

    failpoints.hook = end_at
    mains = {ORDERS: main_orders, POINTS: main_points, REDEMPTIONS: main_redemptions}
    mains[names[0] if names else ORDERS](load_settings(env=os.environ), topic=topic)


if __name__ == "__main__":
    main()
