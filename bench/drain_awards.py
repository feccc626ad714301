"""The awards of `bench drain`: half of them for accounts of their own, half for a few accounts that get ever more."""

import secrets
import time
from typing import Any, Final, NamedTuple

import msgspec

from adapters.mysql import Pool, insert_many, points_dsn, query
from adapters.points import ADD_TO_ACCOUNTS, INSERT_LEDGER, MOVES, NONCE_BYTES, ledger_values
from bench.drain_load import NO_RECORD, Tally, replace_database
from consumers.app import AwardWriter, make_award_writer
from consumers.award_batch import Award
from consumers.metrics import ConsumerMetrics
from domain.events import TOPIC_POINTS_AWARDED, PointsAwarded, encode_points_awarded
from domain.order import order_id
from domain.points import sums
from domain.settings import Dsn, Settings
from migrations.runner import Schema

CAMPAIGN_ID: Final = "bench-drain"
BUSY_ACCOUNTS: Final = 1_000
PRIZES: Final = (5, 10, 50, 100, 1_000)
"""Points of each; no two awards of one account need be worth the same."""
AWARDED_AT_MS: Final = 1_790_000_000_000

_TALLY: Final = """
SELECT COUNT(*), CAST(COALESCE(SUM(delta), 0) AS SIGNED),
 (SELECT CAST(COALESCE(SUM(balance), 0) AS SIGNED) FROM account)
FROM points_ledger"""


def user_of(number: int) -> str:
    """Return whose an award is: an even one's user gets no other, the odd ones share BUSY_ACCOUNTS users."""
    return f"busy-{number // 2 % BUSY_ACCOUNTS:04}" if number % 2 else f"drawer-{number:09}"


def make_award(number: int) -> PointsAwarded:
    """Return an award's event: each is another draw."""
    return PointsAwarded(
        ref_id=order_id(CAMPAIGN_ID, f"drawer-{number:09}", "key"),
        user_id=user_of(number),
        campaign_id=CAMPAIGN_ID,
        points=PRIZES[number % len(PRIZES)],
        at_ms=AWARDED_AT_MS + number,
    )


class BareAwards(NamedTuple):
    """The rows of one transaction."""

    ledger: list[tuple[str | int | bytes, ...]]
    moves: list[tuple[str, int, int]]


class AwardLoad:
    """See `bench.drain_load.DrainLoad`."""

    topic = TOPIC_POINTS_AWARDED
    schema: Schema = "points"
    what = "awards"

    def record(self, number: int) -> tuple[bytes, bytes]:
        """See the protocol."""
        event = make_award(number)
        return event.ref_id.encode(), encode_points_awarded(event)

    def dsn(self, settings: Settings) -> Dsn:
        """See the protocol."""
        return points_dsn(settings.mysql)

    def with_database(self, settings: Settings, database: str) -> Settings:
        """See the protocol."""
        dsn = replace_database(settings.mysql.points_dsn, database)
        return msgspec.structs.replace(settings, mysql=msgspec.structs.replace(settings.mysql, points_dsn=dsn))

    async def prepare(self, pool: Pool, records: int) -> None:
        """Do nothing: accounts are made as awards come."""

    def writer(self, settings: Settings, pool: Pool, *, topic: str, metrics: ConsumerMetrics) -> AwardWriter:
        """See the protocol."""
        return make_award_writer(settings, pool, topic=topic, metrics=metrics)

    def bare_batch(self, numbers: range) -> BareAwards:
        """See the protocol. Rows are sorted as the writer sorts them."""
        now_ms, nonce = time.time_ns() // 1_000_000, secrets.token_bytes(NONCE_BYTES)
        moves = [Award(NO_RECORD, make_award(number)).movement for number in numbers]
        return BareAwards(
            [ledger_values(one, nonce, now_ms) for one in sorted(moves)],
            [(user_id, delta, MOVES) for user_id, delta in sums(moves).items()],
        )

    async def insert_bare(self, cursor: Any, made: BareAwards) -> None:  # noqa: ANN401
        """See the protocol."""
        await insert_many(cursor, INSERT_LEDGER, made.ledger)
        await insert_many(cursor, ADD_TO_ACCOUNTS, made.moves)

    async def tally(self, pool: Pool, timeout_s: float) -> Tally:
        """See the protocol."""
        ((rows, moved, held),) = await query(pool, _TALLY, timeout_s=timeout_s)
        return Tally(rows, moved == held, f"{rows:,} ledger rows of {moved:,} points, and accounts of {held:,}")
