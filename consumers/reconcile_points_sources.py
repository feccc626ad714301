"""Reading fg_points for the reconciler, and awards that are on their way to it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import pymysql.err
from aiomysql import SSCursor

from adapters.kafka_reader import RecordReader, Span, open_reader
from adapters.mysql import Pool, transaction
from consumers.reconcile_look import CampaignLook
from domain.campaign import LOTTERY, REDEMPTION
from domain.errors import BackendError, PoisonRecordError
from domain.events import TOPIC_POINTS_AWARDED, PointsAwarded, dead_topic, decode_points_awarded
from domain.order import split_order_id
from domain.points import LedgerKind
from domain.settings import KafkaSettings

ROWS_AT_ONCE: Final = 10_000
READ_TIMEOUT_S: Final = 1_800.0
DEAD_AWARDS: Final = dead_topic(TOPIC_POINTS_AWARDED)

_KINDS: Final[Mapping[str, Sequence[LedgerKind]]] = {
    REDEMPTION: (LedgerKind.SPEND, LedgerKind.REFUND),
    LOTTERY: (LedgerKind.AWARD,),
}
# Ids of a campaign's orders and draws are one range of the index.
_LEDGER: Final = (
    "SELECT ref_id, kind, delta FROM points_ledger FORCE INDEX (movement) WHERE ref_id LIKE %s AND kind IN %s"
)

DeadPlace = tuple[str, int, int]
"""Topic, partition and offset of a dead letter."""


async def read_points(pool: Pool, looks: Iterable[CampaignLook]) -> None:
    """Read what was spent for, or awarded in, the campaigns whose kind knows points. Others cost nothing.

    Raises:
        BackendError: fg_points is not there, or has no schema.
    """
    wanted = [look for look in looks if look.kind in _KINDS]
    if not wanted:
        return
    try:
        async with transaction(pool, timeout_s=READ_TIMEOUT_S) as cursor:
            for look in wanted:
                like = f"{look.campaign_id}~{'_' * 32}"
                async with cursor.connection.cursor(SSCursor) as stream:
                    await stream.execute(_LEDGER, (like, [str(kind) for kind in _KINDS[look.kind]]))
                    while rows := await stream.fetchmany(ROWS_AT_ONCE):
                        for ref_id, kind, delta in rows:
                            look.points.move(ref_id[-32:], kind, delta)
    except pymysql.err.MySQLError as error:
        raise BackendError(f"MySQL: {error}; does the schema exist? `flashgate migrate` makes it") from error


async def read_awards_under_way(
    kafka: KafkaSettings, committed: Mapping[int, int], looks: Mapping[str, CampaignLook]
) -> list[tuple[DeadPlace, PointsAwarded]]:
    """Note awards that wait in Kafka; returns those in the dead letters, which are under way once they are settled.

    Only what the consumers have not committed is read: there may be a million awards.

    Args:
        kafka: where Kafka is.
        committed: partition → next offset of the consumers, read before.
        looks: campaign id → what is gathered.

    Raises:
        BackendError: Kafka is not there.
    """
    if not any(look.kind == LOTTERY for look in looks.values()):
        return []
    dead: list[tuple[DeadPlace, PointsAwarded]] = []

    def note(_place: DeadPlace, award: PointsAwarded) -> None:
        under_way(looks, award)

    def set_aside(place: DeadPlace, award: PointsAwarded) -> None:
        if award.campaign_id in looks:
            dead.append((place, award))

    async with open_reader(kafka) as reader:
        spans = await reader.spans(TOPIC_POINTS_AWARDED)
        waiting = {number: Span(max(span.start, committed.get(number, 0)), span.end) for number, span in spans.items()}
        await _each(reader, TOPIC_POINTS_AWARDED, waiting, note)
        await _each(reader, DEAD_AWARDS, await reader.spans(DEAD_AWARDS), set_aside)
    return dead


def under_way(looks: Mapping[str, CampaignLook], award: PointsAwarded) -> None:
    """Note that an award is on its way, or will never come and need not."""
    look, parts = looks.get(award.campaign_id), split_order_id(award.ref_id)
    if look is not None and parts is not None:
        look.points.under_way.add(parts[1])


async def _each(
    reader: RecordReader, topic: str, spans: Mapping[int, Span], do: Callable[[DeadPlace, PointsAwarded], None]
) -> None:
    async for record in reader.read(topic, spans):
        try:
            award = decode_points_awarded(record.value)
        except PoisonRecordError:
            continue  # the consumers set it aside; it names no draw
        do((topic, record.partition, record.offset), award)
