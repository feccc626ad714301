"""What is running now: written by the process that supervises the servers, read by every other command."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from stack.paths import state_dir, write_private
from stack.servers import Endpoints

Owner = Literal["stack", "up"]
FILE_NAME: Final = "runtime.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A running stack.

    Attributes:
        home: of its servers.
        pid: the supervisor's process id.
        owner: which command supervises it: `stack start` or `up`.
        endpoints: where the servers are.
        services: what else runs and where; empty with servers alone.
    """

    home: Path
    pid: int
    owner: Owner
    endpoints: Endpoints
    services: dict[str, Any] = field(default_factory=dict)


def read_runtime() -> Runtime | None:
    """What runs now; None when nothing does, also when a supervisor died without cleaning up."""
    try:
        data = json.loads(_file().read_text(encoding="utf-8"))
        if process_started(data["pid"]) != data["pid_started"]:
            return None
        return Runtime(
            home=Path(data["home"]),
            pid=data["pid"],
            owner=data["owner"],
            endpoints=Endpoints.from_json(data["endpoints"]),
            services=data.get("services", {}),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_runtime(
    home: Path,
    endpoints: Endpoints,
    *,
    owner: Owner,
    services: dict[str, Any] | None = None,
) -> None:
    """Make known that this process supervises a running stack."""
    pid = os.getpid()
    data = {
        "home": str(home),
        "pid": pid,
        "pid_started": process_started(pid),
        "owner": owner,
        "endpoints": endpoints.to_json(),
        "services": services or {},
    }
    state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(_file(), json.dumps(data))


def clear_runtime() -> None:
    """Make known that this process's stack runs no more; what another process wrote is left alone."""
    runtime = read_runtime()
    if runtime is None or runtime.pid == os.getpid():
        _file().unlink(missing_ok=True)


def process_started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is not alive. Tells a reused pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def _file() -> Path:
    return state_dir() / FILE_NAME
