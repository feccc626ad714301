"""The reconciler and the life of orders, on real Redis, Kafka and MariaDB: releases, re-acquisitions, dead letters."""

from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from adapters.holds import reacquire
from adapters.kafka_reader import TopicReader
from adapters.mysql import transaction
from adapters.stock import OrderRequest, admit
from consumers.dead_letter_rules import Action, LetterId
from consumers.dead_letter_sql import Settlement, give_up, mark_letters
from consumers.reconcile import reconcile
from consumers.reconcile_report import CampaignReport
from domain import keys
from domain.events import OrderAccepted, dead_topic, decode_order_accepted
from domain.order import digest_of, fingerprint, user_hash
from domain.order_state import PaymentStatus
from domain.outcomes import Outcome, ReacquireOutcome
from lifecycle import payment_rows
from lifecycle.payment_rows import Payment
from stack.servers import Endpoints
from tests.support.flow import STOCK, Flow, new_flow

pytestmark = pytest.mark.usefixtures("stack")

_PAYMENT = (
    "INSERT INTO payment (payment_id, order_id, campaign_id, attempt_no, amount_cents, status, hold_no, created_at_ms, "
    "updated_at_ms, next_at_ms) VALUES ('p-1', %s, %s, 1, 5900, %s, 2, 0, 0, 0)"
)


@pytest_asyncio.fixture
async def flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses."""
    async with new_flow(endpoints) as made:
        yield made


def units(campaign: CampaignReport) -> tuple[int, int, int]:
    """Return units left, taken and given back of the first SKU."""
    sku = campaign.skus[0]
    return sku.remaining, sku.taken, sku.returned


async def test_release_is_in_flight_until_redis_has_it(flow: Flow) -> None:
    """Orders that expired are released in MySQL first: until Redis has got their units that is no drift."""
    made = await flow.sell(6)
    await flow.expire(made[:2])
    campaign = await flow.report()
    assert (campaign.drift, campaign.pending_returns, campaign.explanations) == (0, 2, ())
    assert (campaign.confirmed, campaign.released, campaign.sold) == (4, 2, 4)
    assert campaign.by_status == {"confirmed": 4, "expired": 2}
    assert units(campaign) == (STOCK - 6, 6, 0)
    assert await flow.give_back() == 2
    campaign = await flow.report()
    assert (campaign.drift, campaign.pending_returns, campaign.confirmed, campaign.released) == (0, 0, 4, 2)
    assert units(campaign) == (STOCK - 4, 6, 2)


async def test_release_that_nobody_owes_any_more(flow: Flow) -> None:
    """Without the note that it is owed, a release that Redis has not done is drift, with its order and its hop."""
    first, *_ = await flow.sell(3)
    await flow.expire([first])
    await flow.sql(("DELETE FROM stock_return WHERE order_id = %s", (first,)))
    campaign = await flow.report()
    (fault,) = campaign.faults
    assert (campaign.drift, fault.order_id, fault.kind, fault.repair) == (1, first, "release", "automatic")
    assert fault.hop.startswith("MySQL -> Redis")
    assert first in campaign.explanations[0]


async def test_unit_taken_anew_for_a_late_payment(flow: Flow) -> None:
    """A payment after expiry takes a unit anew: in flight from its note on until MySQL has the second hold."""
    first, *_ = await flow.sell(3)
    await flow.expire([first])
    await flow.sql((_PAYMENT, (first, flow.id, PaymentStatus.REACQUIRING)))
    assert ((await flow.report()).drift, (await flow.report()).in_flight) == (0, 1)
    taken = await reacquire(flow.channel, flow.id, digest_of(first), "buyer-0", 2)
    assert taken is ReacquireOutcome.TAKEN
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.confirmed) == (0, 1, 2)
    payment = Payment("p-1", first, 1, 5_900, PaymentStatus.REACQUIRING, "", 2, 0)
    assert await payment_rows.reacquired(flow.orders, payment, now_ms=flow.now_ms())
    await flow.give_back()
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.pending_returns) == (0, 0, 0)
    assert (campaign.confirmed, campaign.released, campaign.by_status) == (3, 0, {"confirmed": 2, "paid": 1})
    assert units(campaign) == (STOCK - 3, 4, 1)


async def test_unit_taken_anew_without_a_payment_is_missing(flow: Flow) -> None:
    """A second hold in Redis that no payment asked for, and that MySQL does not have, is told with its hop."""
    first, *_ = await flow.sell(2)
    await flow.expire([first])
    await flow.give_back()
    await reacquire(flow.channel, flow.id, digest_of(first), "buyer-0", 2)
    (fault,) = (await flow.report()).faults
    assert (fault.kind, fault.order_id, "late payment" in fault.hop) == ("missing", first, True)


async def test_second_deduction_is_no_drift_on_its_way_back(flow: Flow) -> None:
    """A buyer whose record was lost orders again: what is deducted twice is in flight until Redis has it back."""
    first, *_ = await flow.sell(3)
    await flow.client.delete(keys.buyer(flow.id, "buyer-0"))
    request = OrderRequest(digest_of(first), fingerprint("box-1", 1), "box-1", 1, "buyer-0", user_hash("buyer-0"))
    reply = await admit(flow.channel, flow.id, [request], attempts_max=8, outbox_max=1_000)
    assert reply.decisions[0][0] is Outcome.ACCEPTED
    drifts = [(await flow.report()).drift]
    await flow.relay(1)
    drifts.append((await flow.report()).drift)
    await flow.store(1)
    campaign = await flow.report()
    drifts.append(campaign.drift)
    assert (drifts, campaign.pending_returns, units(campaign)) == ([0, 0, 0], 1, (STOCK - 4, 4, 0))
    assert await flow.give_back() == 1
    campaign = await flow.report()
    assert (campaign.drift, campaign.pending_returns, units(campaign)) == (0, 0, (STOCK - 3, 4, 1))
    assert campaign.skus[0].second_deductions == 1


async def test_status_that_its_ledger_contradicts(flow: Flow) -> None:
    """A row that says it holds nothing, without a release in the ledger, is told and left to a person."""
    first, *_ = await flow.sell(3)
    await flow.sql(("UPDATE orders SET status = 'cancelled' WHERE order_id = %s", (first,)))
    (fault,) = (await flow.report()).faults
    assert (fault.kind, fault.order_id, fault.repair) == ("state", first, f"none: look at trace {first}")


async def dead_letter(flow: Flow) -> tuple[str, LetterId]:
    """Sell two orders, and have a third one set aside; returns its id and where it is."""
    await flow.sell(2)
    (made,) = await flow.accept(1, "box-2")
    await flow.relay(1)
    await flow.sql(("DELETE FROM campaign_sku WHERE campaign_id = %s AND sku_id = 'box-2'", (flow.id,)))
    await flow.store(1)
    insert = "INSERT INTO campaign_sku (campaign_id, sku_id, allocated) VALUES (%s, 'box-2', %s)"
    await flow.sql((insert, (flow.id, STOCK)))
    (letter,) = await flow.sale.dead_letters()
    return made, LetterId(letter.topic, letter.partition, letter.offset)


async def letters_open(flow: Flow) -> int:
    """Return how many letters wait: this topic's, and those of redemptions and prizes, which all tests share."""
    return (await reconcile(flow.settings, [flow.id], topic=flow.sale.topic)).dead_letters_open


async def test_dead_letter_replayed(flow: Flow) -> None:
    """A letter that was published again is in flight, then stored, and does not count as waiting any more."""
    others = await letters_open(flow)
    made, letter = await dead_letter(flow)
    report = await reconcile(flow.settings, [flow.id], topic=flow.sale.topic)
    found = (report.drift, report.dead_letters_open, report.campaigns[0].faults[0].kind)
    assert found == (1, others + 1, "dead_letter")
    (record,) = await flow.sale.dead_letters()
    await flow.sale.publish([decode_order_accepted(record.value)])
    assert ((await flow.report()).drift, (await flow.report()).in_flight) == (0, 1)
    await mark_letters(flow.orders, [letter], Action.REPLAYED, flow.now_ms())
    assert ((await flow.report()).drift, (await flow.report()).in_flight) == (0, 1)
    await flow.store(1)
    report = await reconcile(flow.settings, [flow.id], topic=flow.sale.topic)
    assert (report.drift, report.in_flight, report.dead_letters_open) == (0, 0, others)
    assert report.campaigns[0].by_status == {"confirmed": 3}
    assert made in flow.order_ids


async def test_dead_letter_dropped(flow: Flow) -> None:
    """An order that was given up is rejected, taken and released in MySQL: no drift, and its unit comes back."""
    others = await letters_open(flow)
    _, letter = await dead_letter(flow)
    (record,) = await flow.sale.dead_letters()
    event = decode_order_accepted(record.value)
    assert await give_up(flow.orders, event, letter, flow.now_ms(), held=True) is Settlement.REJECTED
    campaign = await flow.report()
    assert (campaign.drift, campaign.pending_returns) == (0, 1)
    await flow.give_back()
    report = await reconcile(flow.settings, [flow.id], topic=flow.sale.topic)
    (campaign,) = report.campaigns
    assert (report.drift, report.dead_letters_open, campaign.pending_returns) == (0, others, 0)
    assert campaign.by_status == {"confirmed": 2, "rejected": 1}
    assert (campaign.confirmed, campaign.released) == (2, 1)


async def test_dead_letter_dropped_of_an_order_that_is_nowhere(flow: Flow) -> None:
    """To have dealt with a letter does not make its order appear: without a row it is missing, not forgotten."""
    others = await letters_open(flow)
    made, letter = await dead_letter(flow)
    await mark_letters(flow.orders, [letter], Action.DROPPED, flow.now_ms())
    report = await reconcile(flow.settings, [flow.id], topic=flow.sale.topic)
    (fault,) = report.campaigns[0].faults
    assert (report.dead_letters_open, fault.kind, fault.order_id) == (others, "missing", made)
    assert fault.repair == f"none: look at trace {made}"


async def test_forged_record_is_told_until_a_person_has_dealt_with_it(flow: Flow) -> None:
    """A record with another payload under a known order is a dead letter, and nothing once it is dropped."""
    first, *_ = await flow.sell(2)
    (record, *_) = [event for event in await published(flow) if event.order_id == first]
    forged = msgspec.structs.replace(record, quantity=2, fingerprint=fingerprint("box-1", 2))
    await flow.sale.publish([forged])
    await flow.store(1)
    campaign = await flow.report()
    assert [fault.kind for fault in campaign.faults] == ["dead_letter"]
    (letter,) = await flow.sale.dead_letters()
    where = LetterId(dead_topic(flow.sale.topic), letter.partition, letter.offset)
    await mark_letters(flow.orders, [where], Action.DROPPED, flow.now_ms())
    campaign = await flow.report()
    assert (campaign.drift, campaign.kafka_distinct, campaign.mysql_rows) == (0, 2, 2)


async def published(flow: Flow) -> list[OrderAccepted]:
    """Return the events in Kafka."""
    reader = TopicReader(flow.settings.kafka, flow.sale.topic)
    return [decode_order_accepted(record.value) async for record in reader.read()]


async def test_row_of_another_campaign(flow: Flow) -> None:
    """A row whose order id is none of its campaign's is one too many, in orders and in the ledger."""
    first, *_ = await flow.sell(2)
    stray = "other~" + "0" * 32
    async with transaction(flow.orders) as cursor:
        await cursor.execute("UPDATE orders SET order_id = %s WHERE order_id = %s", (stray, first))
        await cursor.execute("UPDATE stock_ledger SET order_id = %s WHERE order_id = %s", (stray, first))
    campaign = await flow.report()
    assert campaign.extra_ids == (stray,)
    assert campaign.missing_ids == (first,)
