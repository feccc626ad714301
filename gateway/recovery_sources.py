"""What Kafka and MySQL know of a campaign, as recovery asks for it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Final, NamedTuple

from adapters.catalog import CatalogCampaign, read_campaign
from adapters.kafka_reader import TopicReader
from adapters.mysql import Pool, query, transaction
from domain.campaign import REDEMPTION
from domain.draw_events import TOPIC_DRAWS_LOG, DrawLog, decode_draw_log
from domain.errors import PoisonRecordError
from domain.events import TOPIC_ORDERS_ACCEPTED, OrderAccepted, decode_order_accepted
from domain.order import digest_of
from domain.order_state import HOLDING, PaymentStatus
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, decode_redemption_accepted
from gateway.recovery_rules import StoredOrder

CLOCKS_DIFFER_MAX_MS: Final = 60_000
"""By how much the clock of whoever told Redis to give units back may be behind Redis's own."""

# A release that was noted as done long before cannot be lost.
_ROWS: Final = (
    "SELECT order_id, sku_id, user_id, quantity, unit_price_cents, fingerprint, hold_no, accepted_at_ms, outbox_id, "
    "outbox_index, status FROM orders WHERE campaign_id = %s AND (accepted_at_ms >= %s OR hold_no > 1 "
    "OR (status NOT IN %s AND NOT EXISTS (SELECT 1 FROM stock_return WHERE stock_return.order_id = orders.order_id "
    "AND stock_return.hold_no = orders.hold_no AND origin = '' AND done_at_ms < %s)))"
)
_REACQUIRING: Final = (
    "SELECT payment.order_id, orders.user_id, payment.hold_no FROM payment JOIN orders USING (order_id) "
    "WHERE payment.campaign_id = %s AND payment.status = %s ORDER BY payment.order_id"
)
_RETURN_AGAIN: Final = (
    "UPDATE stock_return SET done_at_ms = NULL, next_at_ms = 0 "
    "WHERE campaign_id = %s AND origin <> '' AND done_at_ms >= %s"
)


class Reacquisition(NamedTuple):
    """Units that are being taken anew for an order; MySQL does not say yet whether they were."""

    order_id: str
    user_id: str
    hold_no: int


class RecoverySources:
    """Kafka's and MySQL's side of recovery.

    Args:
        open_topic: returns a reader of a topic.
        kind_of: returns a campaign's kind.
        pool: the database fg_orders.
        catalog: the database fg_catalog.
    """

    def __init__(
        self,
        open_topic: Callable[[str], TopicReader],
        kind_of: Callable[[str], Awaitable[str]],
        pool: Pool,
        catalog: Pool,
    ) -> None:
        self._open_topic = open_topic
        self._kind_of = kind_of
        self._pool = pool
        self._catalog = catalog

    async def events_since(self, campaign_id: str, since_ms: int) -> AsyncIterator[OrderAccepted]:
        """Yield the campaign's orders that Kafka has got since then (Unix ms), repeated ones included.

        Those of a redemption come as the orders that deliver it.

        Raises:
            BackendError: Kafka is not there, or Redis, which knows the campaign's kind.
        """
        redeems = await self._kind_of(campaign_id) == REDEMPTION
        topic = TOPIC_REDEMPTIONS_ACCEPTED if redeems else TOPIC_ORDERS_ACCEPTED
        async for record in self._open_topic(topic).read(max(0, since_ms)):
            try:
                if redeems:
                    event = decode_redemption_accepted(record.value).order()
                else:
                    event = decode_order_accepted(record.value)
            except PoisonRecordError:
                continue  # the consumer puts it into the dead letters
            if event.campaign_id == campaign_id:
                yield event

    async def rows_since(self, campaign_id: str, since_ms: int) -> list[StoredOrder]:
        """Return orders that were accepted or given back since then (Unix ms), and all that were ever taken anew.

        Raises:
            BackendError: MySQL is not there.
        """
        args = (campaign_id, since_ms, sorted(HOLDING), since_ms - CLOCKS_DIFFER_MAX_MS)
        return [_stored(campaign_id, *row) for row in await query(self._pool, _ROWS, args)]

    async def logs_since(self, campaign_id: str, since_ms: int) -> AsyncIterator[DrawLog]:
        """Yield entries of a lottery's log that Kafka has got since then (Unix ms), repeated ones included.

        Raises:
            BackendError: Kafka is not there.
        """
        async for record in self._open_topic(TOPIC_DRAWS_LOG).read(max(0, since_ms)):
            try:
                log = decode_draw_log(record.value)
            except PoisonRecordError:
                continue  # then the chain will not hold, and that is told
            if log.campaign_id == campaign_id:
                yield log

    async def owners(self, campaign_id: str, digests: Collection[str]) -> dict[str, str]:
        """Return draw (32 hex) → user, of those that have a row.

        Raises:
            BackendError: MySQL is not there.
        """
        order_ids = sorted(f"{campaign_id}~{digest}" for digest in digests)
        rows = await query(self._pool, "SELECT order_id, user_id FROM orders WHERE order_id IN %s", (order_ids,))
        return {digest_of(order_id): user_id for order_id, user_id in rows}

    async def reacquiring(self, campaign_id: str) -> list[Reacquisition]:
        """Return what is being taken anew. To be asked before `rows_since`: then nothing can slip between the two.

        Raises:
            BackendError: MySQL is not there.
        """
        rows = await query(self._pool, _REACQUIRING, (campaign_id, PaymentStatus.REACQUIRING))
        return [Reacquisition(*row) for row in rows]

    async def catalog(self, campaign_id: str) -> CatalogCampaign | None:
        """Return what the catalog has of a campaign; None if it does not know it.

        Raises:
            BackendError: MySQL is not there.
            PoisonRecordError: its definition cannot be read.
        """
        return await read_campaign(self._catalog, campaign_id)

    async def return_again(self, campaign_id: str, since_ms: int) -> None:
        """Have second deductions be given back once more that were since then (Unix ms): Redis knows which it has.

        Raises:
            BackendError: MySQL is not there.
        """
        async with transaction(self._pool) as cursor:
            await cursor.execute(_RETURN_AGAIN, (campaign_id, since_ms - CLOCKS_DIFFER_MAX_MS))


def _stored(campaign_id: str, order_id: str, *columns: Any) -> StoredOrder:  # noqa: ANN401 -- a row
    sku_id, user_id, quantity, price_cents, print_, hold_no, at_ms, outbox_id, index, status = columns
    event = OrderAccepted(
        order_id=order_id,
        campaign_id=campaign_id,
        sku_id=sku_id,
        user_id=user_id,
        quantity=quantity,
        unit_price_cents=price_cents,
        fingerprint=print_,
        hold_no=hold_no,
        accepted_at_ms=at_ms,
        outbox_id=outbox_id,
        outbox_index=index,
    )
    return StoredOrder(event, status)
