"""Doing what `repair_rules` has planned. Each repair looks at its order once more before it acts."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import groupby
from typing import Final

import redis.asyncio as redis

from adapters.catalog import mend_counter
from adapters.holds import release
from adapters.kafka_sender import KafkaSender, Outgoing
from adapters.mysql import Pool, query
from adapters.redis import ScriptChannel
from adapters.repairs import OrderRow, find_attempts, read_orders, recount_sold, restore_record
from adapters.stock import Attempt, StockLine, read_fence, read_snapshot
from consumers.repair_rules import Action, ActionKind, Repaired
from domain import order_state
from domain.campaign import LOTTERY, REDEMPTION
from domain.errors import FencedError, FlashgateError, OperationRefusedError
from domain.events import TOPIC_ORDERS_ACCEPTED, OrderAccepted, encode_order_accepted
from domain.order import digest_of
from domain.order_state import OrderStatus
from domain.outbox import START
from domain.outcomes import ReleaseOutcome, RestoreOutcome
from domain.points import BALANCE_MAX
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, encode_redemption_accepted, redemption_of

_SAGAS: Final = "SELECT saga_id FROM saga WHERE saga_id IN %s"

PAID_STATUSES: Final = order_state.HOLDING - {OrderStatus.CONFIRMED}

_log = logging.getLogger(__name__)


class Repairer:
    """Carries plans out.

    Args:
        channel: to Redis, for scripts.
        client: to Redis, for reads.
        orders: the database fg_orders.
        catalog: the database fg_catalog.
        sender: Kafka.
        topic: of accepted orders.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self,
        channel: ScriptChannel,
        client: "redis.Redis",
        *,
        orders: Pool,
        catalog: Pool,
        sender: KafkaSender,
        topic: str = TOPIC_ORDERS_ACCEPTED,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._channel = channel
        self._client = client
        self._orders = orders
        self._catalog = catalog
        self._sender = sender
        self._topic = topic
        self._now_ms = now_ms

    async def run(self, actions: Iterable[Action]) -> list[Repaired]:
        """Do these, in their order; returns what became of each. One that fails does not hold up the others."""
        done: list[Repaired] = []
        for (campaign_id, kind), group in groupby(actions, key=lambda action: (action.campaign_id, action.kind)):
            same = list(group)
            results: list[Repaired] = []
            try:
                await self._refuse_closed(campaign_id)
                async for one in self._do(campaign_id, kind, same):
                    results.append(one)  # noqa: PERF401 -- those before a failure count
            except FlashgateError as error:
                seen = {one.action for one in results}
                results += [Repaired(action, False, str(error)) for action in same if action not in seen]
            for one in results:
                level = logging.WARNING if one.done else logging.ERROR
                what = one.action.order_id or f"SKU {one.action.sku_id}"
                _log.log(level, "repair %s, campaign %s, %s: %s", kind, campaign_id, what, one.text)
            done += results
        return done

    async def close(self) -> None:
        """Stop the producer."""
        await self._sender.close()

    async def _refuse_closed(self, campaign_id: str) -> None:
        """Leave a campaign alone that recovery has not compared yet.

        Raises:
            FencedError: it has not.
        """
        stored, _ = await read_fence(self._client, campaign_id)
        if stored is not None and stored != await self._channel.connect():
            raise FencedError(f"campaign {campaign_id}: closed until recovery has compared Redis with Kafka and MySQL")

    def _do(self, campaign_id: str, kind: ActionKind, actions: Sequence[Action]) -> AsyncIterator[Repaired]:
        match kind:
            case ActionKind.RELEASE:
                return self._release(actions)
            case ActionKind.REISSUE:
                return self._reissue(campaign_id, actions)
            case ActionKind.RESTORE:
                return self._restore(actions)
            case ActionKind.ALLOCATED:
                return self._allocate(campaign_id, actions)
            case ActionKind.SOLD:
                return self._recount(actions)

    async def _release(self, actions: Sequence[Action]) -> AsyncIterator[Repaired]:
        rows = await read_orders(self._orders, {action.order_id for action in actions})
        for action in actions:
            row = rows.get(action.order_id)
            why = why_not_released(action, row)
            if why or row is None:
                yield Repaired(action, False, f"not given back: {why}")
                continue
            outcome = await release(
                self._channel, action.campaign_id, digest_of(action.order_id), row.user_id, action.hold_no
            )
            done = outcome in {ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_RELEASED}
            said = "given back in Redis" if done else f"not given back: {outcome.name}"
            yield Repaired(action, done, f"hold {action.hold_no}, quantity {action.quantity}: {said}")

    async def _reissue(self, campaign_id: str, actions: Sequence[Action]) -> AsyncIterator[Repaired]:
        attempts = await find_attempts(self._client, campaign_id, {digest_of(action.order_id) for action in actions})
        known = await read_orders(self._orders, {action.order_id for action in actions})
        sagas = {saga_id for (saga_id,) in await query(self._orders, _SAGAS, ([one.order_id for one in actions],))}
        snapshot = await read_snapshot(self._client, campaign_id)
        stock = snapshot.stock if snapshot else {}
        kind = snapshot.fields.get("kind", "") if snapshot else ""
        events: dict[Action, OrderAccepted] = {}
        for action in actions:
            buyer, line = attempts.get(digest_of(action.order_id)), stock.get(action.sku_id)
            if action.order_id in known:
                yield Repaired(action, False, "not published anew: MySQL has it by now")
            elif action.order_id in sagas:
                yield Repaired(action, False, f"not published anew: it has a saga; see `saga show {action.order_id}`")
            elif kind == LOTTERY:
                yield Repaired(action, False, "not published anew: a draw is made again from its lottery's log alone")
            elif buyer is None or line is None or not _is_held(action, buyer[1]):
                yield Repaired(action, False, "not published anew: no buyer's record holds it as it was found")
            elif kind == REDEMPTION and not is_points_price(action, line):
                yield Repaired(action, False, f"not published anew: {line.price_cents} is no price in points")
            else:
                events[action] = _event(action, *buyer, line, self._now_ms())
        await self._sender.send([self._record(kind, event) for event in events.values()])
        for action in events:
            yield Repaired(action, True, "published anew to Kafka, as its buyer's record has it")

    def _record(self, kind: str, event: OrderAccepted) -> Outgoing:
        """Return the record of an order that was made anew, for the topic of its campaign's kind."""
        key = event.order_id.encode()
        if kind == REDEMPTION:
            return Outgoing(TOPIC_REDEMPTIONS_ACCEPTED, key, encode_redemption_accepted(redemption_of(event)))
        return Outgoing(self._topic, key, encode_order_accepted(event))

    async def _restore(self, actions: Sequence[Action]) -> AsyncIterator[Repaired]:
        rows = await read_orders(self._orders, {action.order_id for action in actions})
        for action in actions:
            row = rows.get(action.order_id)
            why = why_not_restored(action, row)
            if why or row is None:
                yield Repaired(action, False, f"not put back: {why}")
                continue
            attempt = Attempt(
                digest_of(row.order_id), row.fingerprint, row.sku_id, row.quantity, row.hold_no, held=True
            )
            outcome = await restore_record(
                self._channel,
                action.campaign_id,
                row.user_id,
                attempt,
                held=2 if row.status in PAID_STATUSES else 1,
                take=action.take,
                taken=action.stock.taken,
                returned=action.stock.returned,
            )
            if outcome in {RestoreOutcome.RESTORED, RestoreOutcome.ALREADY_THERE}:
                units = f"{action.quantity} units taken from stock" if action.take else "stock counted it already"
                yield Repaired(action, True, f"put back into its buyer's record; {units}")
            else:
                yield Repaired(action, False, f"not put back: {_RESTORE_SAID.get(outcome, outcome.name)}")

    async def _allocate(self, campaign_id: str, actions: Sequence[Action]) -> AsyncIterator[Repaired]:
        snapshot = await read_snapshot(self._client, campaign_id)
        for action in actions:
            line = snapshot.stock.get(action.sku_id) if snapshot else None
            if line is None:
                yield Repaired(action, False, "Redis does not know this SKU")
                continue
            try:
                allocated = await mend_counter(self._catalog, self._orders, campaign_id, action.sku_id)
            except OperationRefusedError as error:
                yield Repaired(action, False, str(error))
                continue
            said = f"fg_orders says {allocated} units allocated, as the catalog does"
            if line.allocated == allocated:
                yield Repaired(action, True, said)
            else:
                yield Repaired(action, False, f"{said}; Redis has {line.allocated}: a person has to look")

    async def _recount(self, actions: Sequence[Action]) -> AsyncIterator[Repaired]:
        for action in actions:
            before, after = await recount_sold(self._orders, action.campaign_id, action.sku_id)
            yield Repaired(action, True, f"MySQL's counter is {after} now, as the ledger counts; it was {before}")


_RESTORE_SAID: Final = {
    RestoreOutcome.STOCK_MOVED: "stock has moved since the look: pause the campaign, or try again",
    RestoreOutcome.STOCK_SHORT: "not enough units are left: more was sold than there is",
}


def why_not_released(action: Action, row: OrderRow | None) -> str:
    """Return why a release is not done after all, or nothing.

    Args:
        action: a RELEASE.
        row: what MySQL says of the order now.
    """
    if row is None:
        return "its order has no row"
    hold = (action.sku_id, action.hold_no)
    if hold not in row.released or hold not in row.taken:
        return "the ledger does not have its release"
    if row.return_pending:
        return "its return is under way by now"
    if row.hold_no == action.hold_no and row.status in order_state.HOLDING:
        return f"the order is {row.status}"
    return ""


def why_not_restored(action: Action, row: OrderRow | None) -> str:
    """Return why an order is not put back after all, or nothing.

    Args:
        action: a RESTORE.
        row: what MySQL says of the order now.
    """
    if row is None:
        return "its order has no row"
    hold = (action.sku_id, action.hold_no)
    if (row.sku_id, row.hold_no) != hold or row.quantity != action.quantity:
        return "its row is another by now"
    if row.status not in order_state.HOLDING or hold not in row.taken or hold in row.released:
        return f"it holds nothing any more: it is {row.status}"
    return ""


def is_points_price(action: Action, line: StockLine) -> bool:
    """Tell whether a redemption can cost what its SKU costs in Redis: at least a point, and no more than anyone has."""
    return line.price_cents >= 1 and line.price_cents * action.quantity <= BALANCE_MAX


def _is_held(action: Action, attempt: Attempt) -> bool:
    """Tell whether a record still holds what was found to be missing."""
    wanted = (action.sku_id, action.hold_no, action.quantity)
    return attempt.held and (attempt.sku_id, attempt.hold_no, attempt.quantity) == wanted


def _event(action: Action, user_id: str, attempt: Attempt, line: StockLine, now_ms: int) -> OrderAccepted:
    """Return the event of an order, made from its buyer's record: without an origin, with the present price."""
    return OrderAccepted(
        order_id=action.order_id,
        campaign_id=action.campaign_id,
        sku_id=attempt.sku_id,
        user_id=user_id,
        quantity=attempt.quantity,
        unit_price_cents=line.price_cents,
        fingerprint=attempt.fingerprint,
        hold_no=attempt.hold_no,
        accepted_at_ms=now_ms,
        outbox_id=START,
        outbox_index=0,
    )
