"""Switches for the calls about orders after the sale, and for the streams of their states."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.hooks import replace


def mysql_asked_first() -> None:
    """Redis is asked before MySQL, and nobody is answered without it."""
    from domain.errors import BackendError
    from gateway.order_status import Question, StatusDesk

    send = StatusDesk._send

    async def redis_first(self: StatusDesk, batch: list[Question]) -> None:
        try:
            await self._find_attempts([(one.campaign_id, one.user_id) for one in batch])
        except BackendError:
            self._give_up(batch)
        else:
            await send(self, batch)

    replace(StatusDesk, "_send", redis_first)


def rows_decide_cancels() -> None:
    """An order is cancelled without a look at what it has come to."""
    from domain.order_state import OrderStatus
    from gateway import life_calls
    from lifecycle.order_rows import OrderFacts, find_order, give_up

    async def as_it_was(pool: Any, order_id: str) -> OrderFacts | None:
        order = await find_order(pool, order_id)
        return order and order._replace(status=OrderStatus.CONFIRMED)

    async def always(*args: Any, may: Callable[[OrderFacts], bool]) -> list[OrderFacts]:
        return await give_up(*args, may=lambda _order: True)

    replace(life_calls, "find_order", as_it_was)
    replace(life_calls, "give_up", always)


def payments_bounded() -> None:
    """Any number of payments may be under way in a worker."""
    from gateway.bound import Bound

    @contextmanager
    def always(_self: Bound) -> Iterator[bool]:
        yield True

    replace(Bound, "place", always)


def callbacks_verified() -> None:
    """Whoever calls back is believed."""
    from gateway import life_calls

    def believe(*_args: Any, **_options: Any) -> None:
        return

    replace(life_calls, "verify", believe)


def states_between_looks() -> None:
    """Of several moves between two looks the last alone is told."""
    from gateway.order_table import OrderChange, OrderTable

    async def none(_self: OrderTable, _order_ids: Sequence[str]) -> list[OrderChange]:
        return []

    replace(OrderTable, "find_changes", none)


def unread_streams_cut() -> None:
    """A buyer who does not read may go on so for ever."""
    from gateway.event_connection import EventConnection

    def wait(_self: EventConnection, _now_s: float = 0.0) -> None:
        return

    replace(EventConnection, "check_deadline", wait)
    replace(EventConnection, "pause_writing", wait)


def streams_bounded() -> None:
    """Any number of streams may be open."""
    from gateway.order_stream import OrderStreams

    def welcome(_self: OrderStreams, _user_id: str) -> None:
        return

    replace(OrderStreams, "refuse", welcome)


def streams_end_with_the_worker() -> None:
    """A worker that is told to stop leaves its streams as they are."""
    from gateway.event_connection import EventConnection
    from gateway.order_stream import OrderStreams

    def go_on(_self: object) -> None:
        return

    replace(OrderStreams, "close", go_on)
    replace(EventConnection, "wind_down", go_on)


def streams_survive_mysql() -> None:
    """Streams end when MySQL does not answer."""
    from domain.errors import BackendError
    from gateway.order_stream import OrderStreams

    look = OrderStreams.look

    async def give_up(self: OrderStreams) -> int:
        try:
            return await look(self)
        except BackendError:
            self.close()
            raise

    replace(OrderStreams, "look", give_up)


SWITCHES = {
    switch.__name__: switch
    for switch in (
        mysql_asked_first,
        rows_decide_cancels,
        payments_bounded,
        callbacks_verified,
        states_between_looks,
        unread_streams_cut,
        streams_bounded,
        streams_end_with_the_worker,
        streams_survive_mysql,
    )
}
