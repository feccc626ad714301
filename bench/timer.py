"""A timer finer than an event loop's, which rounds to milliseconds: timerfd_create(2) as a file descriptor."""

import ctypes
import os
from typing import Final

CLOCK_MONOTONIC: Final = 1
TFD_CLOEXEC: Final = 0o2000000
TFD_NONBLOCK: Final = 0o4000
TFD_TIMER_ABSTIME: Final = 1
_NS: Final = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


def periodic(first_s: float, interval_s: float) -> int:
    """Return a descriptor that becomes readable at monotonic time `first_s` and then once every interval.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    spec = _Itimerspec(_timespec(interval_s), _timespec(first_s))
    if libc.timerfd_settime(fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None) != 0:
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, "timerfd_settime")
    return fd


def acknowledge(fd: int) -> None:
    """Make a timer that has become readable wait for the next interval."""
    try:
        os.read(fd, 8)
    except BlockingIOError:
        return


def _timespec(seconds: float) -> _Timespec:
    ns = max(1, round(seconds * _NS))
    return _Timespec(ns // _NS, ns % _NS)
