"""What a worker asks of its process: files enough for its connections, a garbage collector that looks seldom."""

import gc
import logging
import resource
from typing import Final

log = logging.getLogger(__name__)

FILES_OF_ITS_OWN: Final = 100
"""Open files of a worker besides its buyers' connections."""
GC_THRESHOLD: Final = 50_000


def allow_connections(connections_max: int) -> None:
    """Raise the limit of open files, as far as it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + FILES_OF_ITS_OWN
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            log.warning("only %d files may be open: that is fewer than connections_max needs", most)


def quieten_collector() -> None:
    """Have the garbage collector look seldom: what lives from the start on stays, and requests leave no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
