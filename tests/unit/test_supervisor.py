"""The supervisor against real processes."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from stack.errors import ChildFailed, StartAbortedError
from stack.paths import PROJECT_ROOT
from stack.process import LOG_ROTATE_BYTES
from stack.runtime import process_started
from stack.supervisor import ChildSpec, Event, Supervisor

DEADLINE_S = 20.0


def shell(script: str) -> tuple[str, ...]:
    """The command line of a shell script."""
    return ("/bin/sh", "-c", script)


def exists(path: Path) -> Callable[[], Awaitable[bool]]:
    """A readiness check: the child has made this file."""

    async def check() -> bool:
        return path.exists()  # noqa: ASYNC240

    return check


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Watched:
    """A supervisor and what it told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.supervisor = Supervisor(on_event=self.events.append, backoff_initial_s=0.01, backoff_max_s=0.05)

    def kinds(self, name: str) -> list[str]:
        """What happened to one child, in order."""
        return [event.kind for event in self.events if event.name == name]

    def pids(self) -> list[int]:
        """Every process that was ever started."""
        return [event.pid for event in self.events if event.kind == "started" and event.pid is not None]


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    """A supervisor; when the test is over none of its children may be alive, whatever happened."""
    watched = Watched()
    yield watched
    await watched.supervisor.stop()
    assert [pid for pid in watched.pids() if process_started(pid) is not None] == []


async def test_pid_is_that_of_the_real_process(watched: Watched, tmp_path: Path) -> None:
    """The wrapper that ties a child to its parent's life is gone when the child runs."""
    spec = ChildSpec(
        name="a",
        argv=shell("echo $$ > pid; exec sleep 60".replace("pid", str(tmp_path / "pid"))),
        log=tmp_path / "log",
        ready=exists(tmp_path / "pid"),
    )
    await watched.supervisor.start([spec])
    pid = watched.supervisor.pid("a")
    assert pid is not None
    await until(lambda: (tmp_path / "pid").read_text().strip() == str(pid))
    await until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep")
    assert os.getsid(pid) == pid, "a terminal's Ctrl-C must not reach it"


async def test_killed_child_is_restarted(watched: Watched, tmp_path: Path) -> None:
    """A child that dies comes back under another pid, and each step is told."""
    supervisor = watched.supervisor
    await supervisor.start([ChildSpec(name="a", argv=("sleep", "60"), log=tmp_path / "log")])
    pids = []
    for _ in range(3):
        pids.append(supervisor.pid("a"))
        await supervisor.kill("a", signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            await supervisor.wait_ready("a")
    pids.append(supervisor.pid("a"))
    assert None not in pids
    assert len(set(pids)) == 4
    once = ["started", "ready"]
    assert watched.kinds("a") == [*once, *(["died", "restarting", *once] * 3)]
    assert {event.code for event in watched.events if event.kind == "died"} == {-signal.SIGKILL}


async def test_failed_start_names_the_child_and_shows_its_last_words(watched: Watched, tmp_path: Path) -> None:
    """One child's death at its start ends the whole start: the other is stopped, nobody is known any more."""
    (tmp_path / "bad.log").write_text("words of an earlier run\n")
    good = ChildSpec(name="good", argv=("sleep", "60"), log=tmp_path / "good.log")
    bad = ChildSpec(
        name="bad",
        argv=shell('for i in $(seq 30); do echo "line $i"; done; echo no such disk >&2; exit 7'),
        log=tmp_path / "bad.log",
        ready=exists(tmp_path / "never"),
    )
    with pytest.raises(ChildFailed, match="bad failed with exit code 7") as caught:
        await watched.supervisor.start([good, bad])
    assert (caught.value.name, caught.value.code) == ("bad", 7)
    assert len(caught.value.tail) == 15
    assert caught.value.tail[-1] == "no such disk"
    assert "no such disk" in str(caught.value)
    assert "earlier run" not in str(caught.value)
    assert watched.supervisor.names() == ()
    assert watched.supervisor.pid("good") is None


async def test_missing_program_is_a_failed_start(watched: Watched, tmp_path: Path) -> None:
    """A program that does not exist fails like one that dies, and is named."""
    spec = ChildSpec(name="a", argv=("no-such-program",), log=tmp_path / "log", ready=exists(tmp_path / "never"))
    with pytest.raises(ChildFailed, match="no-such-program"):
        await watched.supervisor.start([spec])


async def test_child_that_never_becomes_ready_fails_the_start(watched: Watched, tmp_path: Path) -> None:
    """It runs, but does not answer in time: no exit code, and it is stopped."""
    spec = ChildSpec(
        name="a",
        argv=("sleep", "60"),
        log=tmp_path / "log",
        ready=exists(tmp_path / "never"),
        ready_timeout_s=0.2,
    )
    with pytest.raises(ChildFailed, match="did not become ready") as caught:
        await watched.supervisor.start([spec])
    assert caught.value.code is None


async def test_stop_kills_what_ignores_sigterm_and_its_descendants(watched: Watched, tmp_path: Path) -> None:
    """A stubborn child is killed with all that it started in its session."""
    ready, grandchild = tmp_path / "ready", tmp_path / "grandchild"
    script = f"trap '' TERM; sleep 60 & echo $! > {grandchild}; touch {ready}; while :; do wait; done"
    spec = ChildSpec(name="a", argv=shell(script), log=tmp_path / "log", ready=exists(ready), stop_timeout_s=0.2)
    await watched.supervisor.start([spec])
    await watched.supervisor.stop()
    await until(lambda: process_started(int(grandchild.read_text())) is None)
    assert watched.events[-1].code == -signal.SIGKILL


async def test_order_of_start_and_stop(watched: Watched, tmp_path: Path) -> None:
    """A child starts when those it comes after are ready, and stops before any of them."""
    chain = [
        ChildSpec(name="c", argv=("sleep", "60"), log=tmp_path / "c", after=("a", "b")),
        ChildSpec(name="b", argv=("sleep", "60"), log=tmp_path / "b", after=("a",)),
        ChildSpec(name="a", argv=("sleep", "60"), log=tmp_path / "a"),
    ]
    await watched.supervisor.start(chain)
    await watched.supervisor.stop()
    seen = [(event.name, event.kind) for event in watched.events]
    started = [(name, kind) for name in "abc" for kind in ("started", "ready")]
    assert seen == [*started, ("c", "stopped"), ("b", "stopped"), ("a", "stopped")]


async def test_impossible_orders_are_refused(watched: Watched, tmp_path: Path) -> None:
    """Unknown, circular and doubled names are programming errors, found before anything starts."""
    a = ChildSpec(name="a", argv=("sleep", "60"), log=tmp_path / "a", after=("b",))
    b = ChildSpec(name="b", argv=("sleep", "60"), log=tmp_path / "b", after=("a",))
    for specs in ([a], [a, b], [a, a]):
        with pytest.raises(ValueError, match=r"name|circular"):
            await watched.supervisor.start(specs)
    assert watched.events == []


async def test_stop_during_start(watched: Watched, tmp_path: Path) -> None:
    """A start that is overtaken by a stop says so, and leaves nothing."""
    first = ChildSpec(name="first", argv=("sleep", "60"), log=tmp_path / "a", ready=exists(tmp_path / "never"))
    second = ChildSpec(name="second", argv=("sleep", "60"), log=tmp_path / "b", after=("first",))
    starting = asyncio.create_task(watched.supervisor.start([first, second]))
    await until(lambda: watched.supervisor.pid("first") is not None)
    await watched.supervisor.stop()
    with pytest.raises(StartAbortedError):
        await starting
    assert watched.kinds("second") == []
    assert watched.supervisor.names() == ()


async def test_stop_while_waiting_to_restart(watched: Watched, tmp_path: Path) -> None:
    """A child in its back-off is stopped at once and does not come back."""
    supervisor = Supervisor(on_event=watched.events.append, backoff_initial_s=3_600.0, backoff_max_s=3_600.0)
    await supervisor.start([ChildSpec(name="a", argv=("sleep", "60"), log=tmp_path / "log")])
    await supervisor.kill("a", signal.SIGKILL)
    await until(lambda: "died" in watched.kinds("a"))
    async with asyncio.timeout(DEADLINE_S):
        await supervisor.stop()
    await supervisor.stop()
    assert watched.kinds("a") == ["started", "ready", "died"]


async def test_stop_start_and_restart_one_child(watched: Watched, tmp_path: Path) -> None:
    """One child can be taken out and put back while its neighbour goes on."""
    supervisor = watched.supervisor
    await supervisor.start([ChildSpec(name=name, argv=("sleep", "60"), log=tmp_path / name) for name in "ab"])
    neighbour, first = supervisor.pid("b"), supervisor.pid("a")
    await supervisor.stop_child("a")
    assert supervisor.pid("a") is None
    await supervisor.start_child("a")
    second = supervisor.pid("a")
    await supervisor.start_child("a")
    assert supervisor.pid("a") == second, "already running"
    await supervisor.restart("a")
    assert len({first, second, supervisor.pid("a")}) == 3
    assert supervisor.pid("b") == neighbour


async def test_child_gets_environment_and_descriptors(watched: Watched, tmp_path: Path) -> None:
    """`env` and `pass_fds` reach the child."""
    reading, writing = os.pipe()
    try:
        spec = ChildSpec(
            name="a",
            argv=shell(f'echo "$GREETING" > /proc/self/fd/{writing}; exec sleep 60'),
            log=tmp_path / "log",
            env={"GREETING": "hello"},
            pass_fds=(writing,),
        )
        await watched.supervisor.start([spec])
        await until(lambda: bool(select.select([reading], [], [], 0)[0]))
        assert os.read(reading, 100) == b"hello\n"
    finally:
        os.close(reading)
        os.close(writing)


async def test_overlong_log_is_set_aside(watched: Watched, tmp_path: Path) -> None:
    """A log past its bound becomes `.1` when the child starts."""
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_ROTATE_BYTES + 1))
    await watched.supervisor.start([ChildSpec(name="a", argv=("sleep", "60"), log=log)])
    assert (tmp_path / "log.1").stat().st_size == LOG_ROTATE_BYTES + 1
    assert log.stat().st_size == 0


SUPERVISING_PROGRAM = """
import asyncio, sys
from pathlib import Path
from stack.supervisor import ChildSpec, Supervisor

async def main(folder):
    supervisor = Supervisor()
    specs = [ChildSpec(name=n, argv=("sleep", "600"), log=folder / n) for n in "abc"]
    await supervisor.start(specs)
    print(*(supervisor.pid(n) for n in "abc"), flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_killed_supervisor_leaves_no_child(tmp_path: Path) -> None:
    """SIGKILL gives the supervisor no chance to clean up; the kernel does."""
    argv = (sys.executable, "-c", SUPERVISING_PROGRAM, str(tmp_path))
    with subprocess.Popen(argv, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as program:  # noqa: ASYNC220
        assert program.stdout is not None
        try:
            pids = [int(word) for word in (await asyncio.to_thread(program.stdout.readline)).split()]
            assert len(pids) == 3
            assert all(process_started(pid) is not None for pid in pids)
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
    await until(lambda: all(process_started(pid) is None for pid in pids))
