"""Outbound review: a person says of each paid order whether it goes out, and what becomes of a parcel that comes back.

A decision is one transaction in fg_orders: orders and reviews are locked, decided by what they are then, moved by
compare-and-set, and what the warehouse is owed for it is written down (`warehouse_due`). Then the warehouse's part is
done at once (`warehouse.steps`); where that cannot be, `./flashgate consume warehouse` does it later.

Locks are taken in the order of `lifecycle.order_rows`: counters, orders, and then the rest.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from adapters.insert_once import insert_once
from adapters.mysql import query, transaction
from domain.errors import BackendError, OperationRefusedError
from domain.failpoints import reach
from domain.order import split_order_id
from domain.order_state import OrderStatus, ReviewStatus
from domain.settings import GuardSettings, WarehouseSettings
from lifecycle.order_attributes import PAYMENT_ID, add_missing, fact
from lifecycle.order_rows import OrderFacts, find_orders, lock_counters, lock_orders, move, release
from lifecycle.payment_rows import paid_by, send_back
from warehouse import parcel_rows, steps
from warehouse.parcel_rows import ParcelCancelledError, ParcelLeftError
from warehouse.review_rules import (
    LIST_MAX,
    ORDERS_MAX,
    Deed,
    Place,
    Standing,
    change_reason,
    place_text,
    refusals,
    told,
    wrong_words,
)
from warehouse.rules import BookingKind
from warehouse.steps import Step
from warehouse.stores import Stores

log = logging.getLogger(__name__)

_REVIEWS: Final = "SELECT order_id, status, who FROM outbound_review WHERE order_id IN %s ORDER BY order_id"
_DECIDE: Final = (
    "UPDATE outbound_review SET status = %s, version = version + 1, who = %s, why = %s, decided_at_ms = %s "
    "WHERE order_id IN %s AND status = %s"
)
_LIST: Final = (
    "SELECT r.order_id, r.campaign_id, r.sku_id, r.quantity, r.status, r.who, r.why, r.opened_at_ms, "
    "r.decided_at_ms, COALESCE(d.attempts, 0), COALESCE(d.error, '') "
    "FROM outbound_review r LEFT JOIN warehouse_due d ON d.order_id = r.order_id AND d.done_at_ms IS NULL "
    "WHERE r.status = %s {of_campaign}AND r.opened_at_ms >= %s AND (r.opened_at_ms > %s OR r.order_id > %s) "
    "ORDER BY r.opened_at_ms, r.order_id LIMIT %s"
)
_FIRST: Final = Place(0, "")
NO_NOTES: Final[Mapping[str, str]] = MappingProxyType({})


class NoSuchOrderError(OperationRefusedError):
    """A decision about an order that MySQL does not have; nothing was changed."""


class Review(NamedTuple):
    """A row of the list of reviews. Times are Unix milliseconds."""

    order_id: str
    campaign_id: str
    sku_id: str
    quantity: int
    status: ReviewStatus
    who: str
    """Who decided last; empty: nobody yet."""
    why: str
    opened_at_ms: int
    decided_at_ms: int | None
    attempts: int
    """How often the warehouse refused what it is owed for it."""
    error: str
    """Why it refused last."""

    @property
    def place(self) -> Place:
        """Where it stands in the list."""
        return Place(self.opened_at_ms, self.order_id)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**self._asdict(), "place": place_text(self.place)}


class Decided(NamedTuple):
    """What has become of an order by a decision."""

    order_id: str
    status: OrderStatus
    note: str = ""
    """What is still to be done, and why it was not done at once."""


class OutboundDesk:
    """Where decisions are made.

    Every call raises BackendError when a server that it needs is away, and OutcomeUnknownError, which is one, when a
    COMMIT was sent and its answer lost: look again where the order stands.

    Args:
        stores: both schemas, and Redis for the guards of what an approval inserts.
        guard: their settings.
        settings: how what the warehouse refuses is put off.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self, stores: Stores, *, guard: GuardSettings, settings: WarehouseSettings, now_ms: Callable[[], int]
    ) -> None:
        self._orders = stores.orders
        self._catalog = stores.catalog
        self._channel = stores.channel
        self._guard = guard
        self._settings = settings
        self._now_ms = now_ms

    async def find(
        self, status: ReviewStatus, *, campaign_id: str = "", after: Place | None = None, limit: int = LIST_MAX
    ) -> list[Review]:
        """Return reviews of a status, the oldest first, from `after` on.

        Args:
            status: as it is now.
            campaign_id: of this campaign alone.
            after: the last one of the page before.
            limit: at most so many, up to LIST_MAX.
        """
        opened_at_ms, order_id = after or _FIRST
        of_campaign, campaign = ("AND r.campaign_id = %s ", [campaign_id]) if campaign_id else ("", [])
        rows = await query(
            self._orders,
            _LIST.format(of_campaign=of_campaign),
            (status, *campaign, opened_at_ms, opened_at_ms, order_id, min(limit, LIST_MAX)),
        )
        return [Review(*row)._replace(status=ReviewStatus(row[4])) for row in rows]

    async def approve(self, order_ids: Sequence[str], who: str, why: str) -> list[Decided]:
        """Approve paid orders, all or none of them, and have the warehouse ship them.

        Args:
            order_ids: at most ORDERS_MAX.
            who: who decides, at most 64 characters.
            why: what for, at most 255 characters.

        Raises:
            NoSuchOrderError: there is no such order; nothing was changed.
            OperationRefusedError: one may not be approved as it stands; nothing was changed.
        """
        ids, now_ms = _checked(order_ids, who, why), self._now_ms()
        async with (
            insert_once(self._channel, [fact(one, PAYMENT_ID) for one in ids], self._guard) as guard,
            transaction(self._orders) as cursor,
        ):
            orders = await _lock(cursor, Deed.APPROVE, ids)
            await move(cursor, orders, OrderStatus.APPROVED, change_reason("approved", who, why), now_ms)
            await _decide(cursor, ids, ReviewStatus.WAITING, ReviewStatus.APPROVED, (who, why, now_ms))
            owed = _steps(BookingKind.SHIP, orders, who, why)
            await steps.owe(cursor, owed, now_ms)
            payments = await paid_by(cursor, ids)
            await add_missing(cursor, [(one, PAYMENT_ID, payments[one]) for one in sorted(payments)], now_ms)
            guard.assert_held()
        return await self._carry_out(owed, OrderStatus.APPROVED, OrderStatus.SHIPPED)

    async def reject(self, order_ids: Sequence[str], who: str, why: str) -> list[Decided]:
        """Reject orders whose parcels have not left, all or none: units go back on sale, and what was paid, too.

        Of approved orders the warehouse's stock is locked first, so that no parcel leaves while this is decided.

        Args:
            order_ids: at most ORDERS_MAX.
            who: who decides, at most 64 characters.
            why: what for, at most 255 characters.

        Raises:
            NoSuchOrderError: there is no such order; nothing was changed.
            OperationRefusedError: one may not be rejected as it stands; nothing was changed.
        """
        ids, now_ms = _checked(order_ids, who, why), self._now_ms()
        known = (await find_orders(self._orders, ids)).values()
        owed = _steps(BookingKind.CANCEL, [one for one in known if one.status is OrderStatus.APPROVED], who, why)
        decided = False
        try:
            async with parcel_rows.cancelling(self._catalog, [one.parcel for one in owed], now_ms) as kept:
                async with transaction(self._orders) as cursor:
                    await lock_counters(cursor, [(one.campaign_id, one.sku_id) for one in known])
                    orders = await _lock(cursor, Deed.REJECT, ids, kept)
                    waiting = [one for one in orders if one.order_id not in kept]
                    await _reject(cursor, waiting, (who, why, now_ms))
                    await _decide(
                        cursor, sorted(kept), ReviewStatus.APPROVED, ReviewStatus.REJECTING, (who, why, now_ms)
                    )
                    await steps.owe(cursor, owed, now_ms)
                decided = True
                reach("warehouse.before_cancel")
        except BackendError as away:
            if not decided:
                raise
            log.warning("%d orders, %s for one: the warehouse is told later: %s", len(owed), owed[0].order_id, away)
        notes = {one.order_id: goes_back(one) for one in known}
        done = [Decided(one.order_id, OrderStatus.REJECTED, notes[one.order_id]) for one in waiting]
        return sorted(done + await self._carry_out(owed, OrderStatus.APPROVED, OrderStatus.REJECTED, notes))

    async def take_back(self, order_ids: Sequence[str], who: str, why: str) -> list[Decided]:
        """Note that parcels came back, all or none of them: the warehouse takes them in, and what was paid goes back.

        Args:
            order_ids: at most ORDERS_MAX.
            who: who says so, at most 64 characters.
            why: what for, at most 255 characters.

        Raises:
            NoSuchOrderError: there is no such order; nothing was changed.
            OperationRefusedError: one was not shipped; nothing was changed.
        """
        ids, now_ms = _checked(order_ids, who, why), self._now_ms()
        async with transaction(self._orders) as cursor:
            orders = await _lock(cursor, Deed.RETURN, ids)
            await _decide(cursor, ids, ReviewStatus.SHIPPED, ReviewStatus.RETURNING, (who, why, now_ms))
            owed = _steps(BookingKind.RETURN, orders, who, why)
            await steps.owe(cursor, owed, now_ms)
        notes = {one.order_id: goes_back(one) for one in orders}
        return await self._carry_out(owed, OrderStatus.SHIPPED, OrderStatus.REJECTED, notes)

    async def decide(self, deed: Deed, order_ids: Sequence[str], who: str, why: str) -> list[Decided]:
        """Make one of the decisions."""
        match deed:
            case Deed.APPROVE:
                return await self.approve(order_ids, who, why)
            case Deed.REJECT:
                return await self.reject(order_ids, who, why)
            case Deed.RETURN:
                return await self.take_back(order_ids, who, why)

    async def _carry_out(
        self, owed: Sequence[Step], decided: OrderStatus, done: OrderStatus, notes: Mapping[str, str] = NO_NOTES
    ) -> list[Decided]:
        """Have the warehouse do its part of a decision that stands, whatever becomes of that now.

        `notes` says of each order, by its id, what else follows once the warehouse has done it.
        """
        errors: dict[str, Exception] = {}
        try:
            errors |= await steps.attempt(self._catalog, self._orders, owed, self._settings, self._now_ms)
        except BackendError as away:
            log.warning("%d orders, %s for one: the warehouse is told later: %s", len(owed), owed[0].order_id, away)
            errors = dict.fromkeys([one.order_id for one in owed], away)
        return [
            Decided(one.order_id, decided, _in_the_way(errors[one.order_id]))
            if one.order_id in errors
            else Decided(one.order_id, done, notes.get(one.order_id, ""))
            for one in owed
        ]


def goes_back(order: OrderFacts) -> str:
    """Return what the buyer of an order gets back that was paid: what costs no money was paid with points."""
    return "the points go back" if order.unit_price_cents == 0 else "the money goes back"


def _in_the_way(error: Exception) -> str:
    """Return what is said of an order whose parcel has not moved as was decided."""
    match error:
        case ParcelCancelledError():
            return str(error)
        case ParcelLeftError():
            return f"{error}; once it has come back: ./flashgate outbound return"
        case _:
            return f"the warehouse does its part later: {error}"


def _checked(order_ids: Sequence[str], who: str, why: str) -> list[str]:
    """Return the orders of a decision, each once, by id.

    Raises:
        NoSuchOrderError: one is no order id.
        OperationRefusedError: too many orders or none, or words that are none.
    """
    ids = sorted(set(order_ids))
    if not 1 <= len(ids) <= ORDERS_MAX:
        raise OperationRefusedError(f"{len(ids)} orders: a decision is about 1 to {ORDERS_MAX}")
    strange = [f"{one!r} is no order id" for one in ids if split_order_id(one) is None]
    if strange:
        raise NoSuchOrderError(told(strange))
    wrong = wrong_words(who, why)
    if wrong:
        raise OperationRefusedError(wrong)
    return ids


async def _lock(
    cursor: Any,  # noqa: ANN401 -- aiomysql has no types
    deed: Deed,
    ids: Sequence[str],
    kept: Collection[str] = (),
) -> list[OrderFacts]:
    """Lock orders and their reviews until the transaction ends; the warehouse keeps the parcels of those in `kept`.

    Raises:
        NoSuchOrderError, OperationRefusedError: it may not be decided.
    """
    locked = await lock_orders(cursor, ids)
    await cursor.execute(f"{_REVIEWS} FOR UPDATE", (list(ids),))
    _refuse(deed, ids, locked, await cursor.fetchall(), kept)
    return [locked[one] for one in ids]


def _refuse(
    deed: Deed,
    ids: Sequence[str],
    orders: dict[str, OrderFacts],
    reviews: Sequence[tuple[Any, ...]],
    kept: Collection[str],
) -> None:
    """Refuse a decision that may not be made about one of its orders.

    Raises:
        NoSuchOrderError: one of them does not exist.
        OperationRefusedError: one of them stands otherwise.
    """
    of_order = {order_id: (ReviewStatus(status), who) for order_id, status, who in reviews}
    standings = [
        Standing(one, orders[one].status, *of_order.get(one, ()))._replace(kept=one in kept)
        if one in orders
        else Standing(one)
        for one in ids
    ]
    refused = refusals(deed, standings)
    if refused:
        kind = OperationRefusedError if all(one in orders for one in ids) else NoSuchOrderError
        raise kind(told(refused))


async def _reject(cursor: Any, orders: Sequence[OrderFacts], words: tuple[str, str, int]) -> None:  # noqa: ANN401
    """Reject locked orders that wait for review, with their counters locked; `words` as in `_decide`."""
    if not orders:
        return
    who, why, now_ms = words
    ids = [one.order_id for one in orders]
    await release(cursor, orders, OrderStatus.REJECTED, change_reason("rejected", who, why), now_ms)
    await send_back(cursor, ids, now_ms)
    await _decide(cursor, ids, ReviewStatus.WAITING, ReviewStatus.REJECTED, words)


async def _decide(
    cursor: Any,  # noqa: ANN401
    ids: Sequence[str],
    before: ReviewStatus,
    after: ReviewStatus,
    words: tuple[str, str, int],
) -> None:
    """Move locked reviews by compare-and-set; `words` are who, why and when (Unix ms).

    Raises:
        BackendError: a row was not as it was locked.
    """
    if not ids:
        return
    await cursor.execute(_DECIDE, (after, *words, list(ids), before))
    if cursor.rowcount != len(ids):
        raise BackendError(f"{len(ids)} reviews were locked as {before}, and {cursor.rowcount} could be moved")


def _steps(kind: BookingKind, orders: Sequence[OrderFacts], who: str, why: str) -> list[Step]:
    return [Step(one.order_id, kind, one.campaign_id, one.sku_id, one.quantity, who, why) for one in orders]
