"""The orders of `bench drain`: made by number, so that any process can make the same ones, and queued in Kafka."""

from collections.abc import Iterator
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adapters.kafka import start_bounded, stop_bounded
from domain.errors import BackendError
from domain.events import OrderAccepted, encode_order_accepted
from domain.order import fingerprint, order_id
from domain.settings import KafkaSettings

CAMPAIGN_ID: Final = "bench-drain"
SKUS: Final = 4
PAY_WITHIN_S: Final = 900
ORDERS_AN_ENTRY: Final = 100
"""Of the outbox that the orders seem to come from."""
ACCEPTED_AT_MS: Final = 1_790_000_000_000
PRICE_CENTS: Final = 5_900
BATCHES_UNDER_WAY: Final = 16
BATCH_BYTES_MAX: Final = 256 * 1024


def sku_id(number: int) -> str:
    """Return the SKU of an order."""
    return f"sku-{number % SKUS}"


_PRINTS: Final = {sku_id(number): fingerprint(sku_id(number), 1) for number in range(SKUS)}


def make_event(number: int) -> OrderAccepted:
    """Return an order's event: each is another buyer's first, for one unit."""
    user_id, sku = f"buyer-{number:09}", sku_id(number)
    return OrderAccepted(
        order_id=order_id(CAMPAIGN_ID, user_id, "key"),
        campaign_id=CAMPAIGN_ID,
        sku_id=sku,
        user_id=user_id,
        quantity=1,
        unit_price_cents=PRICE_CENTS,
        fingerprint=_PRINTS[sku],
        hold_no=1,
        accepted_at_ms=ACCEPTED_AT_MS + number // ORDERS_AN_ENTRY,
        outbox_id=f"{ACCEPTED_AT_MS + number // ORDERS_AN_ENTRY}-0",
        outbox_index=number % ORDERS_AN_ENTRY,
    )


async def queue(settings: KafkaSettings, topic: str, records: int) -> None:
    """Write so many orders into a topic, evenly over its partitions.

    Raises:
        BackendError: Kafka did not take them.
    """
    # Each batch is on Kafka's disk before it is acknowledged, so they are larger here than a relay's.
    producer: Any = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap,
        acks="all",
        max_batch_size=BATCH_BYTES_MAX,
        max_request_size=2 * BATCH_BYTES_MAX,
        request_timeout_ms=settings.request_timeout_ms,
    )
    await start_bounded(producer, timeout_s=settings.client_start_timeout_s)
    try:
        partitions = sorted(await producer.partitions_for(topic))
        under_way: list[Any] = []
        for number, batch in enumerate(_batches(producer, records)):
            partition = partitions[number % len(partitions)]
            under_way.append(await producer.send_batch(batch, topic, partition=partition))
            if len(under_way) >= BATCHES_UNDER_WAY:
                await under_way.pop(0)
        for sent in under_way:
            await sent
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: the orders cannot be queued: {type(error).__name__}: {error}") from error
    finally:
        await stop_bounded(producer)


def _batches(producer: Any, records: int) -> Iterator[Any]:  # noqa: ANN401 -- aiokafka has no types
    """Yield Kafka's own batches, as full as they may be."""
    batch = producer.create_batch()
    for number in range(records):
        event = make_event(number)
        key, value = event.order_id.encode(), encode_order_accepted(event)
        if batch.append(key=key, value=value, timestamp=None) is None:
            batch.close()
            yield batch
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    if batch.record_count():
        batch.close()
        yield batch
