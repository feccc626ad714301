"""Stops a process for a while, as a stalled disk or a paused virtual machine would."""

import asyncio
import os
import signal


async def freeze(pid: int, after_s: float, for_s: float) -> None:
    """Stop a process after so many seconds, for so many; it goes on in any case.

    Args:
        pid: of a child of this process, which nobody else may reuse meanwhile.
        after_s: seconds from now.
        for_s: how long.
    """
    await asyncio.sleep(after_s)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(for_s)
    finally:
        os.kill(pid, signal.SIGCONT)
