"""The Go peer: built once for each state of its source."""

import asyncio
import hashlib
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from stack.errors import ChildFailed
from stack.locks import exclusive_file
from stack.packages import find
from stack.paths import PROJECT_ROOT, state_dir
from stack.process import run_to_end

PEERS: Final = PROJECT_ROOT / "bench" / "peers"
SOURCE: Final = PEERS / "go"
SCRIPT: Final = PEERS / "buy.lua"
FILES: Final = ("go.mod", "go.sum", "main.go")
HOW_TO_INSTALL: Final = "install Go 1.22 or newer, or leave it out on purpose: --without go"
BUILD_TIMEOUT_S: Final = 600.0


def program() -> str | None:
    """Return the Go tool's path, also where its usual folder is not on PATH; None: it is not installed."""
    return find("go", "/usr/local/go/bin/go")


def source_hash(files: dict[str, bytes]) -> str:
    """Return what tells one state of the source from another."""
    state = hashlib.sha256()
    for name, content in sorted(files.items()):
        state.update(f"{name} {len(content)}\n".encode() + content)
    return state.hexdigest()[:16]


def binary() -> Path:
    """Return where the program lies once it is built from the present source."""
    found = {name: (SOURCE / name).read_bytes() for name in FILES}
    return state_dir() / "bench" / f"go-peer-{source_hash(found)}"


async def build(log: Path) -> Path:
    """Build the peer unless it is built; returns the program.

    Raises:
        BenchError: Go is not installed, or the build failed.
    """
    target = await asyncio.to_thread(binary)
    if target.exists():
        return target
    go = program()
    if go is None:
        raise BenchError(f"go: {HOW_TO_INSTALL}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    argv = (go, "build", "-C", str(SOURCE), "-trimpath", "-buildvcs=false", "-o", str(part), ".")
    async with exclusive_file(target.with_name("go-build.lock"), timeout_s=BUILD_TIMEOUT_S):
        try:
            await run_to_end("go build", argv, log=log, timeout_s=BUILD_TIMEOUT_S)
        except (ChildFailed, TimeoutError) as error:
            raise BenchError(f"go: it cannot be built: {error}") from None
        part.replace(target)
    return target
