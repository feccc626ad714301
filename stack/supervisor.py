"""Child processes kept alive: started in order, restarted with back-off, stopped so that none remains."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from stack.errors import ChildFailed, StartAbortedError
from stack.process import Process
from stack.tasks import all_or_first_error

STABLE_AFTER_S: Final = 10.0
"""A child that lived this long starts again with the shortest back-off when it dies."""
READY_POLL_S: Final = 0.05
READY_CHECK_TIMEOUT_S: Final = 5.0
"""One check that takes longer counts as a no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How one child is run.

    Attributes:
        name: unique within a supervisor, for people: "redis", "gateway 1".
        argv: the command line; a program is looked up on PATH.
        log: where stdout and stderr are appended; an overlong file is set aside at a start.
        ready: polled until it answers True; an exception counts as a no. None: ready once started.
        ready_timeout_s: how long a start may take; past it the child counts as failed.
        stop_signal: what asks the child to end.
        stop_timeout_s: how long it may take to; then SIGKILL.
        env: added to the environment.
        pass_fds: file descriptors that the child inherits under the same numbers.
        after: children that must be ready first; they are stopped later than this one.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    ready: Callable[[], Awaitable[bool]] | None = None
    ready_timeout_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 20.0
    env: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a child; `code` is set for died and stopped (negative: minus the signal)."""

    kind: Literal["started", "ready", "died", "restarting", "stopped"]
    name: str
    pid: int | None = None
    code: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Child:
    """What the supervisor knows of one child."""

    spec: ChildSpec
    wanted: bool = True
    process: Process | None = None
    keeper: asyncio.Task[None] | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failure: ChildFailed | None = None
    failed: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps children running. To be used from one event loop.

    Args:
        on_event: told of every change, from inside the loop; must not raise.
        backoff_initial_s: about how long to wait before the first restart; doubles with each death.
        backoff_max_s: the longest wait.
        jitter: a number in [0, 1), so that children that died together do not return together.
    """

    def __init__(
        self,
        *,
        on_event: Callable[[Event], None] | None = None,
        backoff_initial_s: float = 0.2,
        backoff_max_s: float = 5.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._on_event = on_event
        self._backoff_initial_s = backoff_initial_s
        self._backoff_max_s = backoff_max_s
        self._jitter = jitter
        self._children: dict[str, _Child] = {}

    async def start(self, specs: Sequence[ChildSpec]) -> None:
        """Start children, concurrently as far as `after` allows, and wait until all are ready.

        May be called again for further children. When one fails, everything that this call started is stopped.

        Raises:
            ChildFailed: a child died before it was ready, or did not become ready in time.
            StartAbortedError: `stop` was called meanwhile.
            ValueError: a name is taken, or `after` names an unknown child or goes in a circle.
        """
        self._check(specs)
        children = [_Child(spec=spec) for spec in specs]
        self._children.update({child.spec.name: child for child in children})
        try:
            for child in children:
                child.keeper = asyncio.create_task(self._keep(child, first=True), name=f"keep {child.spec.name}")
            await all_or_first_error(self._started(child) for child in children)
        except BaseException:
            await self._remove(children)
            raise

    async def stop(self) -> None:
        """Stop all children in reverse order of `after`, and forget them; nothing of them remains.

        May be called at any time and again: also during `start`, which then raises StartAbortedError.
        """
        await self._remove(list(self._children.values()))

    async def remove(self, names: Iterable[str]) -> None:
        """Stop some children in reverse order of `after` and forget them; unknown names are ignored."""
        await self._remove([self._children[name] for name in names if name in self._children])

    def names(self) -> tuple[str, ...]:
        """The children's names, in order of their start."""
        return tuple(self._children)

    def pid(self, name: str) -> int | None:
        """The child's process id; None while it is not running or not known."""
        child = self._children.get(name)
        return child.process.pid if child is not None and child.process is not None else None

    async def stop_child(self, name: str) -> None:
        """Stop one child and keep it stopped until `start_child`."""
        await self._halt(self._children[name])

    async def start_child(self, name: str) -> None:
        """Start a child that was stopped by `stop_child` and wait until it is ready; no-op for a running one.

        Raises:
            ChildFailed: as in `start`; the child stays stopped.
        """
        child = self._children[name]
        if child.keeper is None or child.keeper.done():
            child.wanted = True
            child.failure = None
            child.failed.clear()
            child.keeper = asyncio.create_task(self._keep(child, first=True), name=f"keep {name}")
        try:
            await self._started(child)
        except ChildFailed:
            await self._halt(child)
            raise

    async def restart(self, name: str) -> None:
        """Stop a child properly, start it again and wait until it is ready; errors as in `start_child`."""
        await self.stop_child(name)
        await self.start_child(name)

    async def kill(self, name: str, sig: signal.Signals) -> None:
        """Signal a running child behind the keeper's back; after SIGKILL wait until it is gone.

        What dies by it is restarted like after any death: see `wait_ready`.
        """
        child = self._children[name]
        process = child.process
        if process is None:
            return
        process.send(sig)
        if sig is signal.SIGKILL:
            await process.exited.wait()
            child.ready.clear()

    async def wait_ready(self, name: str) -> None:
        """Wait until a child is ready, through however many restarts; unbounded: the caller sets a timeout."""
        await self._children[name].ready.wait()

    # -- inside ------------------------------------------------------------------------------------------------

    def _check(self, specs: Sequence[ChildSpec]) -> None:
        """Refuse doubled names, and `after` that can never be fulfilled."""
        placed = set(self._children)
        waiting = {spec.name: spec for spec in specs}
        if len(waiting) != len(specs) or placed & set(waiting):
            raise ValueError("a child's name must be unique")
        while waiting:
            free = [name for name, spec in waiting.items() if placed.issuperset(spec.after)]
            if not free:
                raise ValueError(f"`after` is unknown or circular: {', '.join(sorted(waiting))}")
            placed.update(free)
            for name in free:
                del waiting[name]

    def _tell(self, kind: Literal["started", "ready", "died", "restarting", "stopped"], child: _Child) -> None:
        if self._on_event is not None:
            process = child.process
            self._on_event(
                Event(
                    kind=kind,
                    name=child.spec.name,
                    pid=process.pid if process else None,
                    code=process.code if process else None,
                ),
            )

    async def _started(self, child: _Child) -> None:
        """Wait until a child is ready for the first time, or failed, or is not wanted any more."""
        keeper = child.keeper
        if keeper is None:
            raise StartAbortedError(f"{child.spec.name} was stopped while starting")
        waits = [asyncio.create_task(child.ready.wait()), asyncio.create_task(child.failed.wait())]
        try:
            await asyncio.wait([*waits, keeper], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if child.failure is not None:
            raise child.failure
        if keeper.done() and not keeper.cancelled() and (error := keeper.exception()) is not None:
            raise error  # it could not even be spawned
        if not child.wanted or not child.ready.is_set():
            raise StartAbortedError(f"{child.spec.name} was stopped while starting")

    async def _keep(self, child: _Child, *, first: bool) -> None:
        """Run a child again and again until it is not wanted any more, or fails at its very start."""
        if first:
            for name in child.spec.after:
                await self._children[name].ready.wait()
        deaths = 0
        while True:
            started = time.monotonic()
            await self._run(child, first=first)
            if not child.wanted or child.failure is not None:
                return
            first = False
            deaths = 0 if time.monotonic() - started > STABLE_AFTER_S else deaths + 1
            longest = min(self._backoff_max_s, self._backoff_initial_s * 2 ** min(deaths, 30))
            await asyncio.sleep(longest * (0.5 + self._jitter() / 2))
            self._tell("restarting", child)

    async def _run(self, child: _Child, *, first: bool) -> None:
        """One life of a child, from its spawning to its end."""
        spec = child.spec
        try:
            process = Process(spec.argv, log=spec.log, env=spec.env, pass_fds=spec.pass_fds)
        except OSError:
            if first:
                raise
            self._tell("died", child)  # no memory or descriptors just now: try again later
            return
        child.process = process
        self._tell("started", child)
        readiness = asyncio.create_task(self._poll_ready(child, process, first=first))
        try:
            await process.exited.wait()
        finally:
            process.destroy()  # alive here only when the keeper is cancelled from outside
            readiness.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await readiness
            was_ready = child.ready.is_set()
            child.ready.clear()
            self._tell("died" if child.wanted else "stopped", child)
            if first and child.wanted and not was_ready:
                self._fail(child, process.code)
            child.process = None

    async def _poll_ready(self, child: _Child, process: Process, *, first: bool) -> None:
        """Declare a child ready as soon as it is; one that does not become so in time is failed or killed."""
        spec = child.spec
        try:
            async with asyncio.timeout(spec.ready_timeout_s):
                while not await _answers(spec.ready):  # noqa: ASYNC110 -- another process is asked
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            if first:
                self._fail(child, None)
            await process.stop(spec.stop_signal, timeout_s=spec.stop_timeout_s)
            return
        if process.code is None:
            child.ready.set()
            self._tell("ready", child)

    def _fail(self, child: _Child, code: int | None) -> None:
        if child.failure is None and child.process is not None:
            child.failure = ChildFailed(child.spec.name, code, child.process.log_tail())
            child.failed.set()

    async def _halt(self, child: _Child) -> None:
        """Make an end of a child, in whatever state it is."""
        child.wanted = False
        keeper, process = child.keeper, child.process
        if process is not None:
            await process.stop(child.spec.stop_signal, timeout_s=child.spec.stop_timeout_s)
        elif keeper is not None:
            keeper.cancel()
        if keeper is not None:
            await asyncio.wait([keeper])

    async def _remove(self, children: Sequence[_Child]) -> None:
        """Stop children at once, each as soon as those that stand on it are gone, and forget them."""
        for child in children:
            child.wanted = False  # from here on no death is followed by a restart
        gone = {child.spec.name: asyncio.Event() for child in children}

        async def stop_in_turn(child: _Child) -> None:
            for other in children:
                if child.spec.name in other.spec.after:
                    await gone[other.spec.name].wait()
            try:
                await self._halt(child)
            finally:
                gone[child.spec.name].set()

        await asyncio.gather(*(stop_in_turn(child) for child in children))
        for child in children:
            if self._children.get(child.spec.name) is child:
                del self._children[child.spec.name]


async def _answers(ready: Callable[[], Awaitable[bool]] | None) -> bool:
    """Ask a readiness check once; whatever goes wrong is a no."""
    if ready is None:
        return True
    try:
        async with asyncio.timeout(READY_CHECK_TIMEOUT_S):
            return await ready()
    except Exception:  # noqa: BLE001 -- refused, reset, loading, half a reply: all mean "not yet"
        return False
