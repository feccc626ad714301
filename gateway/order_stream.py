"""Orders told of as they move (Server-Sent Events): who listens, and one look at MySQL for all of them together.

Every `stream_poll_ms` the hub asks which of the orders that are listened to have moved. A listener is told every
version in turn: what lies between two looks is taken from the table `order_change`. So the number of queries follows
the number of orders, not of listeners or of looks that found nothing, and a stream can be resumed anywhere.

No sockets here: a listener is told by the connection that it is attached to (gateway/event_connection.py).
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from domain import outcomes
from domain.errors import BackendError
from domain.order_state import LAST, OrderStatus
from domain.settings import GatewaySettings
from gateway.answers import BUSY_NOW, Answer, problem
from gateway.order_status import OrderRow, status_body
from gateway.order_table import OrderChange

log = logging.getLogger(__name__)

IDS_MAX: Final = 1_000
"""Orders in one query."""
TOLD_AT_ONCE_MAX: Final = 256
"""Events written before others have their turn."""
RETRY_MS: Final = 2_000
"""After which a browser comes back."""
PER_USER_AGAIN_S: Final = 5

CONFIRMED: Final = 1
"""The version of an order when its row is made; `order_change` tells of those that come later."""

BEGIN: Final = b"retry: %d\n\n" % RETRY_MS
HEARTBEAT: Final = b":\n\n"

_VERSION: Final = re.compile(rb"[0-9]{1,9}")
_TOO_MANY: Final = problem(
    outcomes.RATE_LIMITED, "you have too many streams open", (("Retry-After", str(PER_USER_AGAIN_S)),)
)
_NOTHING_MORE: Final = Answer(204, b"")


class Table(Protocol):
    """Where orders stand: `gateway.order_table.OrderTable`."""

    async def find_rows(self, order_ids: Sequence[str]) -> dict[str, OrderRow]:
        """See there, as for the others."""

    async def find_moved(self, order_ids: Sequence[str], version: int) -> list[str]:
        """See there."""

    async def find_changes(self, order_ids: Sequence[str]) -> list[OrderChange]:
        """See there."""


class Ear(Protocol):
    """What a listener is told through."""

    def tell(self, event: bytes) -> None:
        """Write an event."""

    def end(self) -> None:
        """Nothing more comes."""


def event_of(order_id: str, row: OrderRow) -> bytes:
    """Return an order's state as an event."""
    return b"event: status\nid: %d\ndata: %b\n\n" % (row.version, status_body(order_id, row))


def read_last_event_id(value: bytes | None) -> int | None:
    """Return the version that a listener knows; None if the header is missing or none of ours."""
    return int(value) if value is not None and _VERSION.fullmatch(value) else None


def is_final(row: OrderRow) -> bool:
    """Tell whether a stream ends with it; a buyer whose parcel came back is told when he asks again."""
    return row.status in LAST


def rows_between(known: int, row: OrderRow, statuses: dict[int, OrderStatus]) -> Iterator[OrderRow]:
    """Yield an order at every version after the known one; what only the newest row says is as it is now.

    Args:
        known: the version that was told last.
        row: the newest.
        statuses: by version, what `order_change` says; a version that it does not know is left out.
    """
    for version in range(known + 1, row.version):
        status = OrderStatus.CONFIRMED if version == CONFIRMED else statuses.get(version)
        if status is not None:
            yield row._replace(status=status, version=version)
    yield row


class Listener:
    """One stream: what it has been told, and through what. Made by `OrderStreams.listen`; `close` it in any case."""

    __slots__ = ("_ear", "_ended", "_hub", "_waiting", "ends_s", "order_id", "user_id", "version")

    def __init__(self, hub: "OrderStreams", order_id: str, user_id: str, version: int, ends_s: float) -> None:
        self._hub = hub
        self._ear: Ear | None = None
        self._waiting = BEGIN
        self._ended = False
        self.order_id = order_id
        self.user_id = user_id
        self.version = version
        """Told last, or known to the buyer before."""
        self.ends_s = ends_s
        """Monotonic time at which the stream ends."""

    def attach(self, ear: Ear) -> None:
        """Tell what has gathered, and from now on everything at once."""
        self._ear = ear
        ear.tell(self._waiting)
        self._waiting = b""
        if self._ended:
            ear.end()

    def tell(self, event: bytes, version: int) -> None:
        """Tell of a version; an order has few of them, so that what waits is bounded."""
        self.version = version
        if self._ear is not None:
            self._ear.tell(event)
        else:
            self._waiting += event

    def end(self) -> None:
        """Say that nothing more comes."""
        self._ended = True
        if self._ear is not None:
            self._ear.end()

    def close(self) -> None:
        """Forget the listener; again, that does nothing."""
        self._hub.forget(self)


class _Order:
    """An order that is listened to."""

    __slots__ = ("listeners", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        """The lowest that one of its listeners was told last."""
        self.listeners: set[Listener] = set()


class OrderStreams:
    """The listeners of one worker.

    Args:
        settings: how many there may be, and how often MySQL is asked.
        table: MySQL.
        told: called with the number of events, whenever some have been told.
    """

    def __init__(self, settings: GatewaySettings, table: Table, *, told: Callable[[int], None]) -> None:
        self._settings = settings
        self._table = table
        self._told = told
        self._orders: dict[str, _Order] = {}
        self._of_user: dict[str, int] = {}
        self._count = 0
        self._closed = False
        self._away = False

    @property
    def listeners(self) -> int:
        """How many there are."""
        return self._count

    def refuse(self, user_id: str) -> Answer | None:
        """Return why another stream cannot be opened now, if so; asked before MySQL is."""
        if self._closed or self._count >= self._settings.stream_listeners_max:
            return BUSY_NOW
        return _TOO_MANY if self._of_user.get(user_id, 0) >= self._settings.stream_per_user_max else None

    def listen(self, order_id: str, row: OrderRow, known: int | None, ends_s: float) -> Listener | Answer:
        """Open a stream, or say why not.

        Args:
            order_id: the order.
            row: where it stands; its user is the listener.
            known: the version that the buyer knows, None if he knows nothing.
            ends_s: monotonic time at which the stream ends.
        """
        if known is not None and known > row.version:
            known = None
        if known == row.version and is_final(row):
            return _NOTHING_MORE
        refused = self.refuse(row.user_id)
        if refused is not None:
            return refused
        listener = Listener(self, order_id, row.user_id, row.version if known is None else known, ends_s)
        if known is None or known == row.version - 1:
            listener.tell(event_of(order_id, row), row.version)
            if is_final(row):
                listener.end()
        self._add(listener)
        return listener

    def _add(self, listener: Listener) -> None:
        self._count += 1
        self._of_user[listener.user_id] = self._of_user.get(listener.user_id, 0) + 1
        order = self._orders.get(listener.order_id)
        if order is None:
            order = self._orders[listener.order_id] = _Order(listener.version)
        # One who is behind the others, because he resumes or was looked up earlier, is told by the next look.
        order.version = min(order.version, listener.version)
        order.listeners.add(listener)

    def forget(self, listener: Listener) -> None:
        """See `Listener.close`."""
        order = self._orders.get(listener.order_id)
        if order is None or listener not in order.listeners:
            return
        order.listeners.remove(listener)
        if not order.listeners:
            del self._orders[listener.order_id]
        self._count -= 1
        left = self._of_user[listener.user_id] - 1
        if left:
            self._of_user[listener.user_id] = left
        else:
            del self._of_user[listener.user_id]

    def close(self) -> None:
        """End every stream, and let nobody listen any more."""
        self._closed = True
        for order in list(self._orders.values()):
            for listener in list(order.listeners):
                listener.end()

    # -- looking ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look again and again, for ever. While MySQL is away the streams stay open, and nothing is missed."""
        while True:
            await asyncio.sleep(self._settings.stream_poll_ms / 1000)
            try:
                await self.look()
                self._away = False
            except BackendError as error:
                if not self._away:
                    log.warning("streams: where orders stand cannot be told: %s", error)
                self._away = True

    async def look(self) -> int:
        """Tell every listener what has happened; returns the number of events.

        Raises:
            BackendError: MySQL is not there; those who were not told are told by a later look.
        """
        by_version: dict[int, list[str]] = {}
        for order_id, order in self._orders.items():
            by_version.setdefault(order.version, []).append(order_id)
        count = 0
        for version, ids in by_version.items():
            for some in _pieces(ids):
                moved = await self._table.find_moved(some, version)
                if moved:
                    count += await self._tell(moved, version)
        if count:
            self._told(count)
        return count

    async def _tell(self, moved: Sequence[str], since: int) -> int:
        """Tell of orders that have come further than version `since`."""
        rows = await self._table.find_rows(moved)
        statuses: dict[str, dict[int, OrderStatus]] = {}
        skipped = [order_id for order_id, row in rows.items() if max(since, CONFIRMED) + 1 < row.version]
        if skipped:
            for change in await self._table.find_changes(skipped):
                statuses.setdefault(change.order_id, {})[change.version] = change.status
        count = pause_at = 0
        for order_id, row in rows.items():
            order = self._orders.get(order_id)
            if order is not None:  # else the last listener has gone meanwhile
                between = list(rows_between(since, row, statuses.get(order_id, {})))
                count += _tell_listeners(order, since, [(one, event_of(order_id, one)) for one in between])
            if count >= pause_at + TOLD_AT_ONCE_MAX:
                pause_at = count
                await asyncio.sleep(0)
        return count


def _tell_listeners(order: _Order, since: int, events: Sequence[tuple[OrderRow, bytes]]) -> int:
    """Tell an order's listeners what each does not know yet; returns how many events that were.

    One who has come meanwhile and knows less than `since` is left to the next look, which asks for what he lacks.
    """
    count = 0
    for listener in list(order.listeners):
        if listener.version < since:
            continue
        unknown = [(row, event) for row, event in events if row.version > listener.version]
        for row, event in unknown:
            listener.tell(event, row.version)
        count += len(unknown)
        # The newest decides: a parcel that went out and came back between two looks is told to its end.
        if unknown and is_final(unknown[-1][0]):
            listener.end()
    order.version = min((one.version for one in order.listeners), default=order.version)
    return count


def _pieces(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(ids), IDS_MAX):
        yield ids[start : start + IDS_MAX]
