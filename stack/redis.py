"""Redis: every write is on disk before it is answered, nothing is ever evicted."""

import asyncio
import functools
import json
from pathlib import Path

from stack.packages import program
from stack.paths import write_private
from stack.ports import LOOPBACK
from stack.supervisor import ChildSpec


def _config(home: Path, port: int) -> str:
    return f"""\
bind {LOOPBACK}
protected-mode yes
port {port}
tcp-backlog 4096
daemonize no
dir {json.dumps(str(home / "redis"))}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
hash-max-listpack-entries 16
enable-debug-command local
loglevel notice
always-show-logo no
"""


async def prepare(home: Path, port: int) -> None:
    """Write the configuration."""
    (home / "redis").mkdir(mode=0o700, exist_ok=True)
    write_private(home / "redis.conf", _config(home, port))


def spec(home: Path, port: int) -> ChildSpec:
    """How to run it."""
    return ChildSpec(
        name="redis",
        argv=(program("redis-server"), str(home / "redis.conf")),
        log=home / "logs" / "redis.log",
        ready=functools.partial(answers, port),
    )


async def answers(port: int) -> bool:
    """Whether PING is answered by PONG: not so while data are being loaded."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    finally:
        writer.close()
