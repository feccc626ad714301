"""The driver of sagas: takes up those that are due and goes on with them, step by step, until they have ended.

Any number of drivers may run. Sagas that stand at the same step share one transaction of its participant, and one that
notes it. Where the data of a transaction is refused, it is split until the saga at fault stands alone: on its way there
it turns back; once its direction is decided it is tried again with growing pauses, and in the end parked, with a dead
letter. A server that is away is nobody's fault: its sagas wait, and no attempt is counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from adapters import saga_points
from adapters.mysql import DataRefusedError, Pool, query
from adapters.tasks import pause
from consumers import saga_orders, saga_rows
from consumers.batch import Dead, Reason, halves
from consumers.dead_letters import DeadLetters
from consumers.saga_metrics import SagaMetrics
from consumers.saga_rows import SagaRow
from domain.backoff import pause_s
from domain.errors import BackendError
from domain.failpoints import reach
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, encode_redemption_accepted
from domain.saga import (
    REFUSED_BY_DATA,
    Do,
    End,
    Park,
    SagaStatus,
    SagaStep,
    StepOutcome,
    Turn,
    after_failure,
    may_refuse,
    next_of,
    refusal_of,
)
from domain.settings import SagaSettings

PING_TIMEOUT_S: Final = 5.0
"""A server that answers nothing for so long is away."""
FAILURE_PAUSE_MAX_S: Final = 5.0
"""Between two rounds while the sagas' own database is away."""
COUNT_EVERY_S: Final = 5.0
"""How often it is counted how many sagas are open."""

_log = logging.getLogger(__name__)


class _Step(Protocol):
    async def __call__(self, pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Mapping[str, StepOutcome]: ...


class Participant(NamedTuple):
    """Who does a step, and where."""

    pool: Pool
    step: _Step


class ParkedRecord(NamedTuple):
    """The record of a saga that is parked, made anew; where it once stood is not known. A `consumers.batch.Record`."""

    key: bytes | None
    value: bytes | None
    topic: str = TOPIC_REDEMPTIONS_ACCEPTED
    partition: int = 0
    offset: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


async def deduct_points(pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Mapping[str, StepOutcome]:
    """Take the points; see `adapters.saga_points`."""
    return await saga_points.deduct_all(pool, [one.cost for one in sagas], at_ms=at_ms)


async def refund_points(pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Mapping[str, StepOutcome]:
    """Give the points back; see `adapters.saga_points`."""
    return await saga_points.refund_all(pool, [one.cost for one in sagas], at_ms=at_ms)


def participants(orders: Pool, points: Pool) -> dict[SagaStep, Participant]:
    """Return who does which step."""
    return {
        SagaStep.DEDUCT_POINTS: Participant(points, deduct_points),
        SagaStep.CREATE_ORDER: Participant(orders, saga_orders.create_order),
        SagaStep.CREATE_PAYMENT: Participant(orders, saga_orders.create_payment),
        SagaStep.CONFIRM_ORDER: Participant(orders, saga_orders.confirm_order),
        SagaStep.VOID_PAYMENT: Participant(orders, saga_orders.void_payment),
        SagaStep.REJECT_ORDER: Participant(orders, saga_orders.reject_order),
        SagaStep.REFUND_POINTS: Participant(points, refund_points),
    }


def groups(sagas: Iterable[SagaRow]) -> list[list[SagaRow]]:
    """Return sagas that may share the transactions of their next step; one that has failed by itself goes alone."""
    found: dict[tuple[str, ...], list[SagaRow]] = {}
    for one in sorted(sagas):
        key = (one.saga_id,) if one.attempts else (one.status, one.step or "")
        found.setdefault(key, []).append(one)
    return list(found.values())


class SagaDriver:
    """Goes on with sagas.

    Args:
        settings: how much at once, how often, how long.
        orders: the database fg_orders, which has the sagas, too.
        points: the database fg_points.
        dead_letters: where the records of parked sagas go.
        metrics: told of all that happens.
        topic: where these records are published again.
        now_ms: wall clock, Unix milliseconds.
        monotonic: for intervals, seconds.
    """

    def __init__(
        self,
        settings: SagaSettings,
        *,
        orders: Pool,
        points: Pool,
        dead_letters: DeadLetters,
        metrics: SagaMetrics,
        topic: str = TOPIC_REDEMPTIONS_ACCEPTED,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._participants = participants(orders, points)
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._topic = topic
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._counted_at_s = -COUNT_EVERY_S
        self._away: set[Pool] = set()
        """Servers that were found to be away in this round."""
        self._outages: dict[Pool, int] = {}
        """Server → rounds in a row that found it away."""
        self._nudged = asyncio.Event()
        self._stopped = False

    async def run(self) -> None:
        """Work until `stop`.

        Raises:
            Exception: something unforeseen; whoever supervises starts the process again.
        """
        failures = 0
        while not self._stopped:
            self._nudged.clear()
            try:
                count = await self.run_once()
                await self._count()
            except BackendError as error:
                _log.warning("sagas wait, for a server is away: %s", error)
                await pause(pause_s(failures, self._settings.retry_initial_s, FAILURE_PAUSE_MAX_S), self._nudged)
                failures += 1
                continue
            failures = 0
            if count < self._settings.batch_max and not self._stopped:
                await pause(self._settings.poll_ms / 1_000, self._nudged)

    def nudge(self) -> None:
        """Say that there are sagas that are due."""
        self._nudged.set()

    def stop(self) -> None:
        """Have `run` end after the present steps; what is under way is let go of, and due at once."""
        self._stopped = True
        self._nudged.set()

    async def close(self) -> None:
        """Stop the Kafka client."""
        await self._dead_letters.close()

    async def run_once(self) -> int:
        """Take up sagas that are due, go on with each as far as it goes now; returns how many were taken up.

        Raises:
            BackendError: a server was away, as far as the sagas themselves are concerned; go on later.
        """
        self._away.clear()
        settings = self._settings
        hand = await saga_rows.claim(
            self._orders, now_ms=self._now_ms(), lease_ms=settings.lease_ms, limit=settings.batch_max
        )
        if not hand:
            return 0
        reach("saga.after_claim")
        count, errors = len(hand), list[BackendError]()
        while hand:
            going: list[SagaRow] = []
            for group in groups(hand):
                if self._stopped:
                    await self._let_go(group)
                    continue
                try:
                    going += await self._advance(group)
                except BackendError as error:
                    errors.append(error)
                    await self._let_go(group)
            hand = going
        if errors:
            raise errors[0]
        return count

    # -- one step of some sagas --------------------------------------------------------------------------------------

    async def _advance(self, sagas: Sequence[SagaRow]) -> list[SagaRow]:
        """Do what comes next in sagas that stand at one place; returns those to go on with at once."""
        match next_of(sagas[0].status, sagas[0].step):
            case Do(step):
                return await self._do(step, sagas)
            case Turn() as turn:
                return await self._turn(sagas, turn)
            case End():  # somebody has made it due again
                for one in sagas:
                    if one.step is not None:
                        await self._end(one.step, [one])
                return []

    async def _do(self, step: SagaStep, sagas: Sequence[SagaRow]) -> list[SagaRow]:
        participant = self._participants[step]
        if participant.pool in self._away:
            await self._wait(step, sagas, "the server is away")
            return []
        reach(f"saga.before_{step}")
        try:
            outcomes = await participant.step(participant.pool, sagas, at_ms=self._now_ms())
        except DataRefusedError as error:
            if len(sagas) == 1:
                return await self._refused(step, sagas[0], error)
            return await self._split(step, sagas)
        except BackendError as error:
            await self._failed(step, sagas, error)
            return []
        reach(f"saga.after_{step}")
        self._outages.pop(participant.pool, None)
        return await self._note(step, sagas, outcomes)

    async def _note(
        self, step: SagaStep, sagas: Sequence[SagaRow], outcomes: Mapping[str, StepOutcome]
    ) -> list[SagaRow]:
        """Write down what came of a step."""
        turns: dict[Turn | None, list[SagaRow]] = {}
        for one in sagas:
            turns.setdefault(refusal_of(step, outcomes[one.saga_id]), []).append(one)
        going: list[SagaRow] = []
        for turn, some in turns.items():
            if turn is not None:
                going += await self._turn(some, turn)
            elif isinstance(next_of(some[0].status, step), End):
                await self._end(step, some)
            else:
                going += await saga_rows.note_done(self._orders, some, step, lease_until_ms=self._lease_until_ms())
        return going

    async def _turn(self, sagas: Sequence[SagaRow], turn: Turn, error: str = "") -> list[SagaRow]:
        """Decide the direction."""
        reach("saga.before_turn")
        turned = await saga_rows.turn(self._orders, sagas, turn, error=error, lease_until_ms=self._lease_until_ms())
        reach("saga.after_turn")
        return turned

    async def _end(self, step: SagaStep, sagas: Sequence[SagaRow]) -> None:
        reach("saga.before_end")
        ended = await saga_rows.note_ended(self._orders, sagas, step, now_ms=self._now_ms())
        reach("saga.after_end")
        for status in SagaStatus:
            self._metrics.ended(status, sum(one.status is status for one in ended))

    # -- when it fails -----------------------------------------------------------------------------------------------

    async def _split(self, step: SagaStep, sagas: Sequence[SagaRow]) -> list[SagaRow]:
        """Do a step by halves that was refused for all of them together."""
        return [one for half in halves(sagas) for one in await self._do(step, half)]

    async def _refused(self, step: SagaStep, saga: SagaRow, error: DataRefusedError) -> list[SagaRow]:
        """Turn a saga back whose data is refused; one whose direction is decided is tried again."""
        _log.error("saga %s: %s: %s", saga.saga_id, step, error)
        if may_refuse(step):
            self._metrics.step_failed(step)
            return await self._turn([saga], Turn(SagaStatus.COMPENSATING, REFUSED_BY_DATA), str(error))
        await self._count_failure(step, [saga], error)
        return []

    async def _failed(self, step: SagaStep, sagas: Sequence[SagaRow], error: BackendError) -> None:
        """Put sagas off; it counts as their failure only if the server is there."""
        pool = self._participants[step].pool
        try:
            await query(pool, "SELECT 1", timeout_s=PING_TIMEOUT_S)
        except BackendError:
            self._away.add(pool)
            self._outages[pool] = self._outages.get(pool, 0) + 1
            await self._wait(step, sagas, str(error))
        else:
            _log.warning("%d sagas from %s on: %s: %s", len(sagas), sagas[0].saga_id, step, error)
            await self._count_failure(step, sagas, error)

    async def _wait(self, step: SagaStep, sagas: Sequence[SagaRow], error: str) -> None:
        """Put sagas off until a server may be back."""
        self._metrics.step_failed(step)
        outages = max(0, self._outages.get(self._participants[step].pool, 0) - 1)
        wait_s = pause_s(outages, self._settings.retry_initial_s, self._settings.retry_max_s)
        await saga_rows.note_later(
            self._orders,
            sagas,
            attempts={one.saga_id: one.attempts for one in sagas},
            error=error,
            next_at_ms=self._now_ms() + round(1_000 * wait_s),
        )

    async def _count_failure(self, step: SagaStep, sagas: Sequence[SagaRow], error: Exception) -> None:
        """Put sagas off that have failed as often as one another, or park them."""
        self._metrics.step_failed(step)
        settings = self._settings
        after = after_failure(
            sagas[0].attempts,
            now_ms=self._now_ms(),
            attempts_max=settings.attempts_max,
            retry_initial_s=settings.retry_initial_s,
            retry_max_s=settings.retry_max_s,
        )
        if isinstance(after, Park):
            for one in sagas:
                await self._park(one, after.attempts, f"{step}: {error}")
            return
        await saga_rows.note_later(
            self._orders,
            sagas,
            attempts={one.saga_id: after.attempts for one in sagas},
            error=f"{step}: {error}",
            next_at_ms=after.next_at_ms,
        )

    async def _park(self, saga: SagaRow, attempts: int, error: str) -> None:
        """Leave a saga to people: its record goes to the dead letters first, so that it is never parked unheard."""
        record = ParkedRecord(saga.saga_id.encode(), encode_redemption_accepted(saga.event()), self._topic)
        reach("saga.before_park")
        await self._dead_letters.send([Dead(record, Reason.PARKED, error)])
        reach("saga.after_dead_letter")
        if await saga_rows.park(self._orders, saga, attempts=attempts, error=error, now_ms=self._now_ms()):
            self._metrics.parked()
            _log.error("saga %s is parked after %d attempts: %s", saga.saga_id, attempts, error)
        reach("saga.after_park")

    async def _let_go(self, sagas: Sequence[SagaRow]) -> None:
        """Have sagas be due soon; where that fails they are due when the lease is over."""
        due_at_ms = self._now_ms() + round(1_000 * self._settings.retry_initial_s)
        try:
            await saga_rows.let_go(self._orders, sagas, due_at_ms=due_at_ms)
        except BackendError as error:
            _log.warning("%d sagas wait for the end of their lease: %s", len(sagas), error)

    # -- what is short -----------------------------------------------------------------------------------------------

    def _lease_until_ms(self) -> int:
        return self._now_ms() + self._settings.lease_ms

    async def _count(self) -> None:
        """Count open sagas now and then."""
        now_s = self._monotonic()
        if now_s - self._counted_at_s >= COUNT_EVERY_S:
            self._counted_at_s = now_s
            self._metrics.open(*await saga_rows.count_open(self._orders))
