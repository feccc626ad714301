r"""A TCP proxy that loses, holds back or cuts short a chosen message, to see what a client makes of it.

    async with Proxy("127.0.0.1", mysql_port) as proxy:
        lost = proxy.cut_reply(b"\x03COMMIT")   # the server commits, its answer is dropped, both sides are closed
        ...                                     # the client connects to proxy.port
        await lost.wait_fired()

Patterns are looked for in the byte stream, wherever the chunks begin and end. An answer is told by its place: it is
what the server sends next on the connection on which the pattern went by, so a request must not be pipelined behind
others.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Self

CHUNK_BYTES: Final = 65_536


class Direction(Enum):
    """Which stream a pattern is looked for in."""

    TO_SERVER = auto()
    TO_CLIENT = auto()


class Action(Enum):
    """What happens at a match."""

    COUNT = auto()
    """Nothing; matches are counted."""
    CUT = auto()
    """What holds the match is not passed on, and both sides are closed."""
    CUT_REPLY = auto()
    """It is passed on; when the answer comes, it is dropped and both sides are closed."""
    TRUNCATE_REPLY = auto()
    """It is passed on; of the answer the first bytes are, then both sides are closed."""
    HOLD = auto()
    """What holds the match waits until it is released, and is passed on then, even if its sender has left."""
    HOLD_REPLY = auto()
    """It is passed on; the answer waits until it is released."""


@dataclass(eq=False, slots=True)
class Rule:
    """A pattern and what happens when it goes by; made by the methods of `Proxy`.

    Attributes:
        pattern: what is looked for.
        direction: where.
        action: what happens.
        times_max: how often; later matches are only counted. None: always.
        keep_bytes: of a truncated answer.
        seen: matches so far, on all connections.
        fired: how often the action has taken effect.
    """

    pattern: bytes
    direction: Direction = Direction.TO_SERVER
    action: Action = Action.COUNT
    times_max: int | None = 1
    keep_bytes: int = 0
    seen: int = 0
    fired: int = 0
    _armed: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_seen(self, count: int = 1) -> None:
        """Wait until the pattern has gone by so often; unbounded."""
        while self.seen < count:
            self._changed.clear()
            await self._changed.wait()

    async def wait_fired(self, count: int = 1) -> None:
        """Wait until the action has taken effect so often; unbounded."""
        while self.fired < count:
            self._changed.clear()
            await self._changed.wait()

    def release(self) -> None:
        """Let held answers go, and hold no more."""
        self._released.set()

    async def held(self) -> None:
        """Wait for `release`."""
        await self._released.wait()

    def note_seen(self, count: int) -> bool:
        """Count matches; True: the action is due."""
        self.seen += count
        self._changed.set()
        if self.times_max is not None and self._armed >= self.times_max:
            return False
        self._armed += 1
        return True

    def note_fired(self) -> None:
        """Count an action that took effect."""
        self.fired += 1
        self._changed.set()


@dataclass(eq=False, slots=True)
class _Link:
    """One client and its connection to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tails: dict[Rule, bytes] = field(default_factory=dict)
    for_reply: list[Rule] = field(default_factory=list)

    def matches(self, rule: Rule, chunk: bytes) -> int:
        """How many matches end within this chunk; they may begin in an earlier one."""
        text = self.tails.get(rule, b"") + chunk
        count = start = 0
        while (found := text.find(rule.pattern, start)) >= 0:
            count += 1
            start = found + len(rule.pattern)
        # What a match has used up cannot be part of the next one.
        self.tails[rule] = text[max(start, len(text) - len(rule.pattern) + 1) :]
        return count

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Proxy:
    """Forwards connections from a free loopback port to a server, under rules.

    Args:
        host: the server's.
        port: the server's.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._rules: list[Rule] = []
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._down = False
        self.host = "127.0.0.1"
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; `port` is set."""
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self.cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- rules -------------------------------------------------------------------------------------------------

    def count(self, pattern: bytes, direction: Direction = Direction.TO_SERVER) -> Rule:
        """Count how often a pattern goes by."""
        return self.add(Rule(pattern, direction))

    def cut(self, pattern: bytes, direction: Direction = Direction.TO_SERVER, *, times_max: int | None = 1) -> Rule:
        """Close both sides instead of passing on what holds the pattern."""
        return self.add(Rule(pattern, direction, Action.CUT, times_max))

    def cut_reply(self, pattern: bytes, *, times_max: int | None = 1) -> Rule:
        """Let a request with the pattern through, drop the answer to it, and close both sides."""
        return self.add(Rule(pattern, Direction.TO_SERVER, Action.CUT_REPLY, times_max))

    def truncate_reply(self, pattern: bytes, keep_bytes: int, *, times_max: int | None = 1) -> Rule:
        """Let a request with the pattern through, and only the first bytes of the answer; close both sides."""
        return self.add(Rule(pattern, Direction.TO_SERVER, Action.TRUNCATE_REPLY, times_max, keep_bytes))

    def hold(self, pattern: bytes, *, times_max: int | None = 1) -> Rule:
        """Keep what holds the pattern until `Rule.release`: it comes to the server late, whoever still waits for it."""
        return self.add(Rule(pattern, Direction.TO_SERVER, Action.HOLD, times_max))

    def hold_reply(self, pattern: bytes, *, times_max: int | None = 1) -> Rule:
        """Let a request with the pattern through, and keep the answer until `Rule.release`."""
        return self.add(Rule(pattern, Direction.TO_SERVER, Action.HOLD_REPLY, times_max))

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force, for connections that are open too."""
        if not rule.pattern:
            raise ValueError("an empty pattern matches everywhere")
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Take a rule out of force, and release what it holds."""
        self._rules.remove(rule)
        rule.release()

    def cut_all(self) -> None:
        """Close all connections."""
        for link in list(self._links):
            link.close()

    def down(self) -> None:
        """Close all connections, and every new one at once, until `up`."""
        self._down = True
        self.cut_all()

    def up(self) -> None:
        """Forward again."""
        self._down = False

    # -- forwarding --------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._down:
                await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        link = _Link(writer, server_writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(link, reader, server_writer, Direction.TO_SERVER)),
            asyncio.create_task(self._pump(link, server_reader, writer, Direction.TO_CLIENT)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            link.close()
            self._links.discard(link)

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        """Pass chunks on until a side closes or a rule ends the connection."""
        while chunk := await reader.read(CHUNK_BYTES):
            if direction is Direction.TO_CLIENT and not await self._reply(link, chunk):
                return
            if not await self._inspect(link, direction, chunk):
                return
            writer.write(chunk)
            await writer.drain()

    async def _inspect(self, link: _Link, direction: Direction, chunk: bytes) -> bool:
        """Look for patterns; False: the connection ends here."""
        for rule in [rule for rule in self._rules if rule.direction is direction]:
            count = link.matches(rule, chunk)
            if not count or not rule.note_seen(count):
                continue
            if rule.action is Action.COUNT:
                continue
            if rule.action is Action.CUT:
                rule.note_fired()
                return False
            if rule.action is Action.HOLD:
                rule.note_fired()
                await rule.held()
                continue
            link.for_reply.append(rule)
        return True

    async def _reply(self, link: _Link, chunk: bytes) -> bool:
        """Do to an answer what is due; False: the connection ends here."""
        due, link.for_reply = link.for_reply, []
        for rule in due:
            rule.note_fired()
            match rule.action:
                case Action.CUT_REPLY:
                    return False
                case Action.TRUNCATE_REPLY:
                    link.client.write(chunk[: rule.keep_bytes])
                    await link.client.drain()
                    return False
                case _:
                    await rule.held()
        return True
