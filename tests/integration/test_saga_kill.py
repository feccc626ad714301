"""`consume redemptions` as a process: it is killed anywhere, it parks and resumes, and every saga ends."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from adapters.kafka import make_producer
from adapters.kafka_reader import open_reader
from adapters.mysql import query
from consumers.app import run_redemptions
from consumers.batch import Reason
from domain.events import dead_topic
from domain.saga import BACK, FINISH, FORWARD, SagaStep
from domain.settings import SagaSettings
from stack.servers import Endpoints
from tests.support.metrics import Recorded
from tests.support.sagas import COMPENSATED, NO_PAYMENT, WHOLE, Redemptions, Told, new_redemptions, redemption
from tests.support.waiting import in_time

pytestmark = pytest.mark.usefixtures("stack")

HASTY = SagaSettings(lease_ms=1_000, poll_ms=50, retry_initial_s=0.05, retry_max_s=0.1, attempts_max=2)
THERE = (SagaStep.DEDUCT_POINTS,)
PATHS = {
    "": (*FORWARD, "turn", *FINISH, "end"),
    "points short": (*THERE, "turn", *BACK, "end"),
    "no points account": (*THERE, "turn", *BACK, "end"),
    "payment refused": ("turn", *BACK, "end"),
}
"""Kind of redemption → what comes along on its way; before and after each the process is killed."""


@pytest_asyncio.fixture
async def redemptions(endpoints: Endpoints) -> AsyncIterator[Redemptions]:
    """Return redemptions of a test's own, by the wall clock."""
    async with new_redemptions(endpoints, saga=HASTY) as made:
        yield made


async def none_is_open(redemptions: Redemptions) -> bool:
    """Tell whether every saga has ended."""
    return await query(redemptions.orders, "SELECT 1 FROM saga WHERE ended_at_ms IS NULL LIMIT 1") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(PATHS))
async def test_killed_at_every_point(redemptions: Redemptions, kind: str) -> None:
    """The process is killed before and after each step, compensation and decision: the next one ends what it has left.

    Guards: a saga that was taken up is due again when its lease is over; guards commit with what they guard.
    """
    await redemptions.refuse()
    sagas = []
    points = [f"saga.{when}_{what}" for what in PATHS[kind] for when in ("before", "after")]
    for number, point in enumerate(["saga.after_claim", *points]):
        sagas.append(await redemptions.one_of(kind, number))
        process = await redemptions.spawn(point)
        async with asyncio.timeout(60):
            assert await process.wait() == -signal.SIGKILL, point
    process = await redemptions.spawn("nowhere")
    await in_time(lambda: none_is_open(redemptions), "not all sagas end")
    process.terminate()
    assert await process.wait() == 0
    await redemptions.assert_conserved(dict.fromkeys(sagas, COMPENSATED if kind else WHOLE))


async def test_from_kafka_to_the_dead_letters_and_back(redemptions: Redemptions) -> None:
    """A redemption from Kafka ends whole; one that cannot end is in the dead letters, and resumes when it comes again.

    Guards: a parked saga is taken up again by its record.
    """
    await redemptions.refuse()
    happy, stuck = redemption(1), redemption(2, quantity=NO_PAYMENT)
    for event in (happy, stuck):
        await redemptions.grant(event.user_id, event.points_in_all)
    # Points that were taken, and cannot go back: the ledger has another refund in their place.
    foreign = "INSERT INTO points_ledger (user_id, ref_id, kind, delta, at_ms, nonce) VALUES (%s, %s, %s, 0, 1, '')"
    await query(redemptions.points, foreign, ("nobody", stuck.order_id, "refund"))
    await redemptions.publish(happy, stuck)
    metrics, told, stop = Recorded(), Told(), asyncio.Event()
    running = asyncio.create_task(
        run_redemptions(redemptions.settings, stop=stop, topic=redemptions.topic, metrics=metrics, saga_metrics=told)
    )

    async def parked() -> bool:
        return not running.done() and told.parked_count == 1 and sum(told.ended_in.values()) == 1

    await in_time(parked, "one saga does not end, or the other is not parked")
    topic = dead_topic(redemptions.topic)
    async with open_reader(redemptions.settings.kafka) as reader:
        letters = [one async for one in reader.read(topic, await reader.spans(topic))]
    headers = dict(letters[0].headers)
    assert (len(letters), letters[0].key, headers["reason"]) == (1, stuck.order_id.encode(), Reason.PARKED.encode())
    assert headers["topic"].decode() == redemptions.topic
    assert (await redemptions.row(stuck.order_id))["next_at_ms"] is None

    await query(redemptions.points, "DELETE FROM points_ledger WHERE delta = 0")
    producer = make_producer(redemptions.settings.kafka)
    await producer.start()
    await producer.send_and_wait(redemptions.topic, value=letters[0].value, key=letters[0].key)
    await producer.stop()
    await in_time(lambda: none_is_open(redemptions), "the parked saga does not go on")
    stop.set()
    await running
    assert (metrics.new, metrics.duplicates) == (2, 1)
    await redemptions.assert_conserved({happy.order_id: WHOLE, stuck.order_id: COMPENSATED})
