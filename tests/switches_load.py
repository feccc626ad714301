"""Switches for the load driver."""

import time
from typing import Final

from tests.support.hooks import replace


def latency_since_due() -> None:
    """A request's latency counts from when it was sent, as a closed loop's does."""
    from bench.load_http import Line

    send = Line.send

    def send_late(line: Line, request: bytes, due_s: float, number: int = 0) -> None:
        del due_s
        send(line, request, time.monotonic(), number)

    replace(Line, "send", send_late)


SWITCHES: Final = {"latency_since_due": latency_since_due}
