"""The hub of streams with MySQL played by the test: who is told what, whatever comes between."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from domain.errors import BackendError
from domain.order_state import OrderStatus
from domain.settings import GatewaySettings
from gateway.answers import Answer
from gateway.order_status import OrderRow
from gateway.order_stream import BEGIN, IDS_MAX, Listener, OrderStreams, read_last_event_id
from gateway.order_table import OrderChange

STATES = [
    OrderStatus.ACCEPTED,
    OrderStatus.CONFIRMED,
    OrderStatus.PAID,
    OrderStatus.APPROVED,
    OrderStatus.SHIPPED,
    OrderStatus.REJECTED,
    OrderStatus.REFUNDED,
]
FAR_S = 1e12


def row(version: int, user: str = "ann") -> OrderRow:
    """Return an order at a version of the usual way."""
    return OrderRow(user, "box", 1, STATES[version], version)


def order_id(number: int) -> str:
    """Return an order id."""
    return f"c-1~{number:032x}"


@dataclass
class Played:
    """Implements Table: what it says is what the test has set, after whatever the test does meanwhile."""

    versions: dict[str, int] = field(default_factory=dict)
    meanwhile: Callable[[], object] = lambda: None
    away_at: set[str] = field(default_factory=set)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def _reached(self, call: str, ids: Sequence[str]) -> None:
        self.asked.append((call, len(ids)))
        if call in self.away_at:
            raise BackendError("away")

    async def find_moved(self, order_ids: Sequence[str], version: int) -> list[str]:
        """Return those that are further."""
        self._reached("moved", order_ids)
        return [one for one in order_ids if self.versions.get(one, 0) > version]

    async def find_rows(self, order_ids: Sequence[str]) -> dict[str, OrderRow]:
        """Return rows."""
        self._reached("rows", order_ids)
        found = {one: row(self.versions[one]) for one in order_ids}
        self.meanwhile()
        return found

    async def find_changes(self, order_ids: Sequence[str]) -> list[OrderChange]:
        """Return all that the usual way has brought so far."""
        self._reached("changes", order_ids)
        self.meanwhile()
        return [
            OrderChange(one, version, STATES[version])
            for one in order_ids
            for version in range(2, self.versions[one] + 1)
        ]


@dataclass
class Heard:
    """Implements Ear."""

    text: bytes = b""
    over: bool = False

    def tell(self, event: bytes) -> None:
        """Remember."""
        self.text += event

    def end(self) -> None:
        """Remember."""
        self.over = True

    @property
    def versions(self) -> list[int]:
        """Versions heard, in order."""
        return [int(line[4:]) for line in self.text.split(b"\n") if line.startswith(b"id: ")]


def streams(table: Played, **changes: int) -> OrderStreams:
    """Return a hub."""
    return OrderStreams(GatewaySettings(**changes), table, told=lambda _count: None)  # type: ignore[arg-type]


def listen(hub: OrderStreams, order: str, version: int, known: int | None = None, user: str = "ann") -> Heard:
    """Open a stream and listen at once."""
    opened = hub.listen(order, row(version, user), known, FAR_S)
    assert isinstance(opened, Listener)
    heard = Heard()
    opened.attach(heard)
    assert heard.text.startswith(BEGIN)
    return heard


async def test_one_who_comes_during_a_look_misses_nothing() -> None:
    """A listener that comes while MySQL is asked, and knows less than was asked for, is told by the next look."""
    table = Played({order_id(1): 4})
    hub = streams(table)
    first = listen(hub, order_id(1), 2)
    late: list[Heard] = []

    def come() -> None:
        late.append(listen(hub, order_id(1), 1, known=0))
        table.meanwhile = lambda: None

    table.meanwhile = come
    assert await hub.look() == 2
    assert first.versions == [2, 3, 4]
    assert late[0].versions == [1]
    assert await hub.look() == 3
    assert late[0].versions == [1, 2, 3, 4]
    assert first.versions == [2, 3, 4]
    assert (first.over, late[0].over) == (True, True)
    assert await hub.look() == 0


async def test_a_stream_ends_with_what_is_last_now() -> None:
    """A parcel that went out and came back between two looks is told to its end; one that is out ends the stream.

    Who asks again after his parcel has come back is told of that.
    """
    table = Played({order_id(1): 5, order_id(2): 4})
    hub = streams(table)
    back, out = listen(hub, order_id(1), 3), listen(hub, order_id(2), 3)
    await hub.look()
    assert (back.versions, back.over) == ([3, 4, 5], False)
    assert (out.versions, out.over) == ([3, 4], True)
    nothing = hub.listen(order_id(3), row(4), 4, FAR_S)
    assert isinstance(nothing, Answer)
    assert nothing.status == 204
    again = listen(hub, order_id(3), 5, known=4)
    assert (again.versions, again.over) == ([5], False)
    table.versions |= {order_id(1): 6, order_id(3): 6}
    await hub.look()
    assert [(one.versions[-1], one.over) for one in (back, again)] == [(6, True), (6, True)]


async def test_one_who_comes_with_a_newer_row_is_not_told_twice() -> None:
    """Listeners of one order at different versions each hear every version once."""
    table = Played({order_id(1): 3})
    hub = streams(table)
    heard = [listen(hub, order_id(1), 0), listen(hub, order_id(1), 3), listen(hub, order_id(1), 3, known=1)]
    await hub.look()
    assert [one.versions for one in heard] == [[0, 1, 2, 3], [3], [2, 3]]
    assert await hub.look() == 0
    table.versions[order_id(1)] = 4
    assert await hub.look() == 3
    assert [one.versions for one in heard] == [[0, 1, 2, 3, 4], [3, 4], [2, 3, 4]]


@pytest.mark.parametrize("call", ["moved", "rows", "changes"])
async def test_a_look_that_fails_is_made_again(call: str) -> None:
    """Wherever MySQL goes away during a look, nobody is told anything twice or not at all."""
    table = Played({order_id(1): 3}, away_at={call})
    hub = streams(table)
    heard = listen(hub, order_id(1), 0)
    with pytest.raises(BackendError):
        await hub.look()
    assert heard.versions == [0]
    table.away_at.clear()
    await hub.look()
    assert heard.versions == [0, 1, 2, 3]


async def test_orders_are_looked_at_many_at_a_time() -> None:
    """The number of queries follows the number of orders by the thousand, and a quiet look asks once for each."""
    table = Played()
    hub = streams(table)
    heard = [listen(hub, order_id(number), 0, user=f"u-{number}") for number in range(2_500)]
    assert await hub.look() == 0
    assert table.asked == [("moved", IDS_MAX), ("moved", IDS_MAX), ("moved", 500)]
    table.asked.clear()
    table.versions = {order_id(number): 1 for number in range(0, 2_500, 2)}
    assert await hub.look() == 1_250
    assert table.asked == [("moved", 1_000), ("rows", 500)] * 2 + [("moved", 500), ("rows", 250)]
    assert [one.versions for one in heard] == [[0, 1], [0]] * 1_250


async def test_those_who_have_gone_are_not_asked_for() -> None:
    """An order that nobody listens to any more is forgotten, in the middle of a look too; closing twice is harmless."""
    table = Played({order_id(1): 1, order_id(2): 1})
    hub = streams(table)
    opened = [hub.listen(order_id(number), row(0), None, FAR_S) for number in (1, 2)]
    gone, stays = (one for one in opened if isinstance(one, Listener))
    heard = Heard()
    stays.attach(heard)

    def leave() -> None:
        gone.close()
        gone.close()

    table.meanwhile = leave
    assert await hub.look() == 1
    assert (heard.versions, hub.listeners) == ([0, 1], 1)
    stays.close()
    table.asked.clear()
    assert (await hub.look(), table.asked, hub.listeners) == (0, [], 0)


async def test_what_comes_before_the_connection_is_ready_waits() -> None:
    """A listener that is not attached yet is told everything when it is, and then that it is over."""
    table = Played({order_id(1): 4})
    hub = streams(table)
    opened = hub.listen(order_id(1), row(0), None, FAR_S)
    assert isinstance(opened, Listener)
    await hub.look()
    heard = Heard()
    opened.attach(heard)
    assert (heard.versions, heard.over) == ([0, 1, 2, 3, 4], True)


def test_places_are_counted() -> None:
    """Places of a worker and of a buyer run out and are given back; a hub that is closed has none."""
    hub = streams(Played(), stream_listeners_max=2, stream_per_user_max=1)
    first = hub.listen(order_id(1), row(1), None, FAR_S)
    assert isinstance(first, Listener)
    refused = hub.listen(order_id(1), row(1), None, FAR_S)
    assert isinstance(refused, Answer)
    assert refused.status == 429
    listen(hub, order_id(2), 1, user="ben")
    refused = hub.listen(order_id(3), row(1, "cid"), None, FAR_S)
    assert isinstance(refused, Answer)
    assert refused.status == 503
    first.close()
    third = listen(hub, order_id(3), 1, user="cid")
    hub.close()
    assert third.over
    closed = hub.refuse("dan")
    assert closed is not None
    assert closed.status == 503


def test_a_final_state_ends_the_stream() -> None:
    """The last state is told and ends the stream; who knows it already gets 204, and takes no place."""
    hub = streams(Played())
    heard = listen(hub, order_id(1), 4)
    assert (heard.versions, heard.over) == ([4], True)
    again = hub.listen(order_id(1), row(4), 4, FAR_S)
    assert isinstance(again, Answer)
    assert (again.status, hub.listeners) == (204, 1)


def test_last_event_ids() -> None:
    """What is no version of ours is ignored."""
    cases = [(b"0", 0), (b"12", 12), (b"", None), (b"-1", None), (b"1x", None), (b"\xd9\xa1", None), (None, None)]
    assert [read_last_event_id(value) for value, _ in cases] == [known for _, known in cases]
    assert read_last_event_id(b"1" * 10) is None


async def test_it_runs_on_while_mysql_is_away() -> None:
    """The loop goes on after failures, and tells what has happened as soon as it can."""
    table = Played({order_id(1): 1}, away_at={"moved"})
    hub = streams(table, stream_poll_ms=1)
    heard = listen(hub, order_id(1), 0)
    running = asyncio.create_task(hub.run())
    while len(table.asked) < 3:  # noqa: ASYNC110 -- the hub tells nobody
        await asyncio.sleep(0)
    table.away_at.clear()
    while heard.versions != [0, 1]:  # noqa: ASYNC110
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
