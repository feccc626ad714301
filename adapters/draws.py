"""A lottery in Redis, as Python calls: each is one script of `scripts/lua/`. Its stock is that of `adapters.stock`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import redis.asyncio as redis

from adapters.lua import load_script
from adapters.redis import ANSWERS_LOST, RUN_ID, ScriptChannel
from adapters.stock import refuse_closed
from domain import keys
from domain.campaign import MOVES, Campaign, CampaignState
from domain.draw_events import DrawLog
from domain.errors import BackendError, FencedError, OperationRefusedError
from domain.lottery import (
    PRIZE_UNITS,
    Drawn,
    Moved,
    Opened,
    Prize,
    commitment,
    pack_lines,
    parse_line,
    parse_prizes,
    prizes_of,
)
from domain.order import fingerprint, user_hash
from domain.outbox import START, decode_log, next_outbox_id
from domain.outcomes import BatchStatus, Outcome

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack_results: Final = msgspec.msgpack.Decoder(list[int]).decode
ENTRIES_AT_ONCE: Final = 100
"""Outbox entries in one page; an entry is a batch."""
_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}
_ACCEPTED: Final = Outcome.ACCEPTED


class DrawRequest(NamedTuple):
    """One draw as `draw_prize.lua` gets it."""

    digest: str
    user_id: str
    user_hash: bytes
    secret: bytes
    """u, see `domain.lottery`."""


class DrawDecision(NamedTuple):
    """What became of one draw."""

    outcome: Outcome
    detail: int
    """Which of its user's draws it is, or milliseconds to wait where it is rate limited."""
    seq: int = 0
    """Its line in the log."""
    hash: str = ""
    """Of its entry there."""
    prize: Prize | None = None


class DrawReply(NamedTuple):
    """What a batch came to; see `adapters.stock.BatchReply`."""

    last_outbox_id: str
    decisions: list[DrawDecision]
    sold_out: dict[str, int]
    run_id: str


async def draw(channel: ScriptChannel, campaign_id: str, draws: Sequence[DrawRequest], *, outbox_max: int) -> DrawReply:
    """Decide a batch of draws of one lottery.

    Raises:
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
        BackendError: nothing was changed.
        OutcomeUnknownError: the reply was lost; the same draws may be asked again.
    """
    buyer = keys.buyer(campaign_id, "")
    names = [
        keys.campaign(campaign_id),
        keys.stock(campaign_id),
        keys.outbox(campaign_id),
        keys.holders(campaign_id),
        keys.log_hashes(campaign_id),
        *[buyer + one.user_id for one in draws],
    ]
    reply = await channel.call(
        load_script("draw_prize"),
        names,
        [
            RUN_ID,
            "".join([one.digest for one in draws]),
            b"1".join([one.secret for one in draws]) + b"1",
            b"".join([one.user_hash for one in draws]),
            outbox_max,
            len(buyer.encode()),
        ],
    )
    if reply[0] == BatchStatus.UNKNOWN_CAMPAIGN:
        raise BackendError(f"there is no lottery {campaign_id}")
    refuse_closed(campaign_id, reply[0])
    sold = reply[6]
    return DrawReply(
        last_outbox_id=reply[1].decode(),
        decisions=_decisions(reply),
        sold_out={sold[i].decode(): sold[i + 1] for i in range(0, len(sold), 2)},
        run_id=channel.run_id,
    )


def _decisions(reply: Sequence[Any]) -> list[DrawDecision]:
    """Put together what the script returned; see its header."""
    first_seq, own, replays, prizes = reply[2], reply[3].decode(), iter(reply[5]), parse_prizes(reply[7].decode())
    decisions, seq, values = [], first_seq, iter(_unpack_results(reply[4]))
    for code, detail, place in zip(values, values, values, strict=True):
        outcome = _OUTCOMES[code]
        if code < 0:
            decisions.append(DrawDecision(outcome, detail))
            continue
        prize = prizes[place - 1] if place else None
        if outcome is _ACCEPTED:
            decisions.append(DrawDecision(outcome, detail, seq, own, prize))
            seq += 1
        else:
            line, digest = next(replays), next(replays)
            entry_hash = own if line >= first_seq else digest.decode()
            decisions.append(DrawDecision(outcome, detail, line, entry_hash, prize))
    return decisions


# -- loading and moving --------------------------------------------------------------------------------------------


def drawn_from(campaign: Campaign) -> list[tuple[str, str | int]]:
    """Return the fields of a lottery's hash that its file decides, besides those of every campaign."""
    return [
        ("prizes", msgspec.json.encode(prizes_of(campaign)).decode()),
        ("no_prize_weight", campaign.lottery.no_prize_weight),
        ("draws_per_user", campaign.campaign.draws_per_user),
    ]


def _opened_with(opened: Opened) -> list[tuple[str, str | int]]:
    """Return what `drawn_from` returns, of a lottery whose log has begun."""
    rows = zip(opened.skus, opened.weights, opened.points, strict=True)
    prizes = [Prize(*row, fingerprint(row[0], PRIZE_UNITS)) for row in rows]
    return [
        ("prizes", msgspec.json.encode(prizes).decode()),
        ("no_prize_weight", opened.no_prize_weight),
        ("draws_per_user", opened.draws_per_user),
    ]


def lottery_fields(campaign: Campaign, seed: bytes) -> list[tuple[str, str | int]]:
    """Return what a lottery's hash has besides a sale's; see `adapters.campaign_stock.load_campaign`."""
    return [*drawn_from(campaign), ("commitment", commitment(seed)), ("seed", seed.hex())]


async def move_lottery(channel: ScriptChannel, campaign_id: str, verb: str) -> tuple[str, bool]:
    """Open, pause, resume or close a lottery; returns the new state and whether it was another one before.

    Raises:
        OperationRefusedError: not possible from its present state, closed before, or no lottery; nothing was changed.
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
    """
    target, sources = MOVES[verb]
    code, before = await channel.call(
        load_script("move_lottery"),
        [keys.campaign(campaign_id), keys.stock(campaign_id), keys.outbox(campaign_id)],
        [campaign_id, target, keys.CHANGES, RUN_ID, *sources],
    )
    refuse_closed(campaign_id, code)
    if code == -1:
        raise OperationRefusedError(
            f"lottery {campaign_id!r} is {before.decode()}: {verb} is possible only from "
            f"{' or '.join(sources)}; nothing was changed"
        )
    if code < 0:
        raise BackendError(f"lottery {campaign_id!r}: its stock in Redis cannot be read")
    if code == 0 and target is CampaignState.CLOSED:
        raise OperationRefusedError(f"lottery {campaign_id!r} is closed already; nothing was changed")
    return target, code == 1


async def read_unrelayed_logs(client: "redis.Redis", campaign_id: str) -> list[DrawLog]:
    """Return the entries of a lottery's log that are still in the outbox.

    Raises:
        BackendError: Redis is not there.
        PoisonRecordError: an entry cannot be read.
    """
    found: list[DrawLog] = []
    start = START
    while True:
        try:
            page: Any = await client.xrange(keys.outbox(campaign_id), min=start, count=ENTRIES_AT_ONCE)
        except ANSWERS_LOST as error:
            raise BackendError(f"Redis: the outbox cannot be read: {error}") from error
        if not page:
            return found
        logs = [decode_log(campaign_id, outbox_id.decode(), fields) for outbox_id, fields in page]
        found += [log for log in logs if log is not None]
        start = next_outbox_id(page[-1][0].decode())


# -- recovery ------------------------------------------------------------------------------------------------------


class LogHead(NamedTuple):
    """How far a lottery's log is in Redis."""

    seq: int
    """0: it has not been opened."""
    hash: str


async def read_log_head(client: "redis.Redis", campaign_id: str) -> LogHead | None:
    """Return how far a campaign's log is; None if it is no lottery.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        names = ["prizes", "log_seq", "log_hash"]
        prizes, seq, digest = await client.hmget(keys.campaign(campaign_id), names)
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    if prizes is None:
        return None
    return LogHead(int(seq or 0), digest.decode() if isinstance(digest, bytes) else campaign_id)


_FAULTS: Final = {
    -1: "stock is short",
    -9: "unknown prize",
    -11: "a buyer record does not fit",
    -13: "it does not go on from what Redis has",
    -21: "no lottery of that name is loaded",
}


async def restore_draws(channel: ScriptChannel, log: DrawLog, owners: Mapping[str, str], *, run_id: str) -> int:
    """Bring a lottery on by an entry of its log while the gate is closed; returns how many draws were not there.

    Args:
        channel: to Redis.
        log: the next entry, or one that Redis has.
        owners: draw (32 hex) → user, of the draws whose release is in the entry.
        run_id: the server on which recovery compares.

    Raises:
        FencedError: Redis was restarted once more.
        OperationRefusedError: it does not fit; a person has to look.
    """
    campaign_id = log.campaign_id
    lines, names, hashes, opened = [], [], [], None
    for text in log.lines:
        what = parse_line(text)
        kind, sku_id, units, reference, n, user_id = "close", "", 0, "", 0, ""
        if isinstance(what, Drawn):
            kind, sku_id, units, reference, n, user_id = "draw", what.sku_id, 1, what.digest, what.n, what.user_id
        elif isinstance(what, Moved):
            kind, sku_id, units, reference = what.kind, what.sku_id, what.units, what.reference
            user_id = owners.get(reference, "")
            if kind == "take" or (kind == "release" and not user_id):
                raise OperationRefusedError(
                    f"lottery {campaign_id!r}: Redis has lost that {text!r}, which cannot be put back by itself; "
                    f"the lottery stays closed"
                )
        elif isinstance(what, Opened):
            kind, opened = "open", what
        lines.append((kind, sku_id, units, reference, n))
        names.append(keys.buyer(campaign_id, user_id) if kind in {"draw", "release"} else keys.campaign(campaign_id))
        hashes.append(user_hash(user_id))
    # As strings: Redis's cmsgpack knows no binaries. UTF-8 does not matter to it.
    packed_lines = pack_lines(log.lines)
    entry = b"\x94" + _pack(log.seq) + _pack(log.hash) + b"\xdb" + len(packed_lines).to_bytes(4, "big") + packed_lines
    code, count = await channel.call(
        load_script("restore_draws"),
        [
            keys.campaign(campaign_id),
            keys.stock(campaign_id),
            keys.outbox(campaign_id),
            keys.holders(campaign_id),
            keys.topups(campaign_id),
            keys.duplicates(campaign_id),
            keys.log_hashes(campaign_id),
            keys.withdrawn(campaign_id),
            *names,
        ],
        [
            _pack(lines),
            entry + _pack(log.outbox_id),
            b"".join(hashes),
            RUN_ID,
            run_id,
            campaign_id,
            _pack(list(zip(opened.skus, opened.remaining, strict=True)) if opened else []),
            _pack(_opened_with(opened) if opened else []),
        ],
    )
    if code == BatchStatus.FENCED:
        raise FencedError(f"lottery {campaign_id}: Redis was restarted while its log was being put back")
    if code != 1:
        raise OperationRefusedError(
            f"lottery {campaign_id!r}: the entry of its log from line {log.seq} on, as Kafka has it, does not fit into "
            f"Redis ({_FAULTS[code]}); the lottery stays closed"
        )
    return int(count)
