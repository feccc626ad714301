"""Free ports on loopback."""

import random
import socket
from collections.abc import Container
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
LOWEST: Final = 15_000
ATTEMPTS_MAX: Final = 200
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server's old connections do not count
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(*, taken: Container[int] = ()) -> int:
    """Pick a free port outside the range from which the kernel takes the ports of outgoing connections.

    Inside that range a server that restarts can find its port used by some client; worse, a client that tries
    to reconnect to it meanwhile can be given the very port it dials, and is then connected to itself.
    """
    lowest_ephemeral = int(_EPHEMERAL.read_text().split()[0])
    for _ in range(ATTEMPTS_MAX):
        if lowest_ephemeral > LOWEST + 100:
            port = random.randrange(LOWEST, lowest_ephemeral)  # noqa: S311 -- no secret
        else:
            with socket.socket() as probe:
                probe.bind((LOOPBACK, 0))
                port = int(probe.getsockname()[1])
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port found in {ATTEMPTS_MAX} attempts")
