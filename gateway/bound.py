"""A bound on what is under way at a time."""

import contextlib
from collections.abc import Iterator


class Bound:
    """At most so many at a time."""

    __slots__ = ("_max", "_now")

    def __init__(self, most: int) -> None:
        self._max = most
        self._now = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[bool]:
        """Yield whether there is a place."""
        if self._now >= self._max:
            yield False
            return
        self._now += 1
        try:
            yield True
        finally:
            self._now -= 1
