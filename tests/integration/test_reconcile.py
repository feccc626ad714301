"""The reconciler on real Redis, Kafka and MariaDB: what is well is no drift, and what is tampered with is."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from adapters.holds import release
from adapters.stock import pack_stock_line, parse_stock_line
from consumers.reconcile import reconcile
from domain import keys
from domain.order import digest_of
from domain.outcomes import ReleaseOutcome
from stack.servers import Endpoints
from tests.support.flow import STOCK, Flow, new_flow

pytestmark = pytest.mark.usefixtures("stack")

_FAKE = "~" + "0" * 32

_FAKE_ORDER = """
INSERT INTO orders (order_id, campaign_id, sku_id, user_id, quantity, unit_price_cents, fingerprint, status, version,
 hold_no, outbox_id, outbox_index, nonce, accepted_at_ms, confirmed_at_ms)
SELECT %s, campaign_id, sku_id, 'nobody', quantity, unit_price_cents, fingerprint, status, version,
 hold_no, outbox_id, outbox_index, nonce, accepted_at_ms, confirmed_at_ms
FROM orders WHERE order_id = %s"""

_FAKE_LEDGER = """
INSERT INTO stock_ledger (order_id, campaign_id, sku_id, hold_no, kind, quantity, outbox_id, outbox_index, nonce,
 created_at_ms)
SELECT %s, campaign_id, sku_id, hold_no, %s, quantity, outbox_id, outbox_index, nonce, created_at_ms
FROM stock_ledger WHERE order_id = %s"""


@pytest_asyncio.fixture
async def flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses."""
    async with new_flow(endpoints) as made:
        yield made


async def test_clean_sale_has_no_drift(flow: Flow) -> None:
    """A sale that went the whole way is whole: every store says the same number."""
    await flow.sell(20)
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.explanations) == (0, 0, ())
    assert (campaign.redis_taken, campaign.kafka_distinct, campaign.mysql_rows, campaign.sold) == (20, 20, 20, 20)
    assert (campaign.confirmed, campaign.released) == (20, 0)
    one, two = campaign.skus
    assert (one.allocated, one.remaining, one.taken, one.redis_held, one.outbox) == (STOCK, STOCK - 20, 20, 20, 0)
    assert (two.allocated, two.remaining, two.taken) == (STOCK, STOCK, 0)


async def test_row_removed_and_another_added(flow: Flow) -> None:
    """One order lost and a false one added are a drift of 2, though every sum is as before."""
    first, *_ = await flow.sell(20)
    fake = flow.id + _FAKE
    await flow.sql(
        (_FAKE_ORDER, (fake, first)),
        (_FAKE_LEDGER, (fake, "take", first)),
        ("DELETE FROM orders WHERE order_id = %s", (first,)),
        ("DELETE FROM stock_ledger WHERE order_id = %s", (first,)),
    )
    campaign = await flow.report()
    assert (campaign.mysql_rows, campaign.sold, campaign.drift) == (20, 20, 2)
    assert (campaign.missing_ids, campaign.extra_ids) == ((first,), (fake,))
    assert campaign.skus[0].missing == campaign.skus[0].extra == 1


async def test_order_row_swapped_alone(flow: Flow) -> None:
    """The same in the table of orders alone, with the ledger untouched, is a drift of 2 as well."""
    first, *_ = await flow.sell(5)
    fake = flow.id + _FAKE
    await flow.sql((_FAKE_ORDER, (fake, first)), ("DELETE FROM orders WHERE order_id = %s", (first,)))
    campaign = await flow.report()
    assert (campaign.drift, campaign.missing_ids, campaign.extra_ids) == (2, (first,), (fake,))


async def test_counter_tampered_with(flow: Flow) -> None:
    """Counters that differ from what they count are drift by the difference, in Redis and in MySQL."""
    await flow.sell(10)
    line = await flow.client.hget(keys.stock(flow.id), "box-1")
    assert isinstance(line, bytes)
    more = parse_stock_line(line)
    await flow.client.hset(keys.stock(flow.id), "box-1", pack_stock_line(more._replace(remaining=more.remaining + 3)))
    campaign = await flow.report()
    assert campaign.drift == 3
    assert f"allocated {STOCK}" in campaign.explanations[0]
    await flow.client.hset(keys.stock(flow.id), "box-1", line)
    await flow.sql(("UPDATE campaign_sku SET sold = sold + 4 WHERE campaign_id = %s AND sku_id = 'box-1'", (flow.id,)))
    assert (await flow.report()).drift == 4


async def test_order_in_the_outbox_is_in_flight(flow: Flow) -> None:
    """An accepted order that is not relayed yet is in flight, and no drift."""
    await flow.sell(5)
    await flow.accept(1)
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.explanations) == (0, 1, ())
    assert (campaign.redis_taken, campaign.kafka_distinct, campaign.mysql_rows) == (6, 5, 5)
    assert campaign.skus[0].outbox == 1


async def test_record_not_consumed_yet_is_in_flight(flow: Flow) -> None:
    """A record at or beyond the committed offset is in flight, before the group's first commit and after it."""
    await flow.accept(3)
    await flow.relay(3)
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.kafka_distinct) == (0, 3, 3)
    await flow.store(3)
    await flow.accept(2)
    await flow.relay(2)
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight) == (0, 2)
    assert (campaign.redis_taken, campaign.kafka_distinct, campaign.mysql_rows) == (5, 5, 3)
    assert campaign.skus[0].outbox == 0


async def test_published_twice_counts_once(flow: Flow) -> None:
    """A relay that died before its checkpoint publishes again: distinct orders are counted, and nothing drifts."""
    await flow.accept(4)
    saved = await flow.client.dump(keys.outbox(flow.id))
    assert saved is not None
    await flow.relay(4)
    await flow.client.delete(keys.relay(flow.id))
    await flow.client.restore(keys.outbox(flow.id), 0, saved, replace=True)
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.kafka_distinct) == (0, 4, 4)
    await flow.relay(4)
    await flow.store(8)
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.kafka_distinct, campaign.mysql_rows) == (0, 0, 4, 4)
    assert campaign.explanations == ()


async def test_dead_letter_is_not_silent(flow: Flow) -> None:
    """An order that the consumer set aside holds stock without a row: drift, told as a dead letter."""
    await flow.sell(3)
    made = await flow.accept(1, "box-2")
    await flow.relay(1)
    await flow.sql(("DELETE FROM campaign_sku WHERE campaign_id = %s AND sku_id = 'box-2'", (flow.id,)))
    await flow.store(1)
    await flow.sql(
        ("INSERT INTO campaign_sku (campaign_id, sku_id, allocated) VALUES (%s, 'box-2', %s)", (flow.id, STOCK))
    )
    campaign = await flow.report()
    assert (campaign.drift, campaign.dead_letters, campaign.missing_ids) == (1, 1, ())
    assert made[0] in campaign.explanations[0]


async def test_poison_is_counted_apart(flow: Flow) -> None:
    """Records that are no events belong to no order: they are counted, and are no drift."""
    await flow.sale.publish([(b"key", b"not an event"), (b"key", None)])
    await flow.accept(2)
    await flow.relay(2)
    await flow.store(4)
    report = await reconcile(flow.settings, [flow.id], topic=flow.sale.topic)
    assert (report.drift, report.in_flight, report.poison) == (0, 0, 2)


async def test_redis_that_forgot_an_order(flow: Flow) -> None:
    """An order that Kafka and MySQL have and Redis has lost is drift even where Redis agrees with itself."""
    await flow.sell(5)
    await flow.client.delete(keys.buyer(flow.id, "buyer-0"))
    line = await flow.client.hget(keys.stock(flow.id), "box-1")
    assert isinstance(line, bytes)
    now = parse_stock_line(line)
    older = now._replace(remaining=now.remaining + 1, taken=now.taken - 1)
    await flow.client.hset(keys.stock(flow.id), "box-1", pack_stock_line(older))
    campaign = await flow.report()
    assert (campaign.drift, campaign.skus[0].redis_lost, campaign.redis_taken) == (1, 1, 4)


async def test_release_needs_the_ledger(flow: Flow) -> None:
    """Units given back in Redis alone are drift until the ledger has the release."""
    first, *_ = await flow.sell(5)
    assert await release(flow.channel, flow.id, digest_of(first), "buyer-0", 1) == ReleaseOutcome.RELEASED
    assert (await flow.report()).drift == 1
    await flow.sql(
        (_FAKE_LEDGER, (first, "release", first)),
        ("UPDATE campaign_sku SET sold = sold - 1 WHERE campaign_id = %s AND sku_id = 'box-1'", (flow.id,)),
    )
    assert [fault.kind for fault in (await flow.report()).faults] == ["state"]
    await flow.sql(("UPDATE orders SET status = 'cancelled' WHERE order_id = %s", (first,)))
    campaign = await flow.report()
    assert (campaign.drift, campaign.sold, campaign.confirmed, campaign.released) == (0, 4, 4, 1)
    assert campaign.by_status == {"cancelled": 1, "confirmed": 4}


async def test_corrupt_record_is_told(flow: Flow) -> None:
    """A buyer's record that cannot be read is named, and what it held counts as lost."""
    await flow.sell(3)
    await flow.client.set(keys.buyer(flow.id, "buyer-1"), b"\xc1")
    campaign = await flow.report()
    assert campaign.skus[0].redis_lost == 1
    assert "buyer-1" in campaign.explanations[0]
