"""Stock in Redis, as Python calls: each is one script of `scripts/lua/` or one atomic read."""

import asyncio
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import redis.asyncio as redis

from adapters.buyer_record import Record
from adapters.lua import load_script
from adapters.redis import ANSWERS_LOST, RUN_ID, ScriptChannel
from domain import keys
from domain.errors import BackendError, FencedError, OperationRefusedError, PoisonRecordError
from domain.outbox import START
from domain.outcomes import BatchStatus, Outcome

_STOCK_LINE: Final = struct.Struct(">QQQQQIQ")
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack_record: Final = msgspec.msgpack.Decoder(Record).decode
_unpack_results: Final = msgspec.msgpack.Decoder(list[int]).decode
_STRING_HEADS: Final = [bytes((0xD9, length)) for length in range(256)]
"""What a packed string of so many bytes begins with; Redis's cmsgpack knows no binaries."""
_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}


class OrderRequest(NamedTuple):
    """One order as `admit_orders.lua` gets it."""

    digest: str
    fingerprint: str
    sku_id: str
    quantity: int
    user_id: str
    user_hash: bytes


class BatchReply(NamedTuple):
    """What a batch came to."""

    now_us: int
    last_outbox_id: str
    """The newest entry of the outbox; the batch's own accepted orders are in it or before it."""
    holders_length: int
    decisions: list[tuple[Outcome, int]]
    """Outcome, and milliseconds to wait where it is rate limited."""
    sold_out: dict[str, int]
    """SKUs of the batch that have nothing left, with their epoch."""
    run_id: str = ""
    """Of the Redis that decided."""


class StockLine(NamedTuple):
    """One SKU's numbers; `allocated == remaining + taken - returned` always."""

    remaining: int
    taken: int
    returned: int
    allocated: int
    epoch: int
    per_user: int
    price_cents: int


class Attempt(NamedTuple):
    """One attempt in a buyer's record."""

    digest: str
    fingerprint: str
    sku_id: str
    quantity: int
    hold_no: int
    held: bool


class CampaignGate(NamedTuple):
    """What decides whether a campaign sells now, as of one moment."""

    state: str
    opens_ms: int
    closes_ms: int
    now_ms: int
    """Redis's clock, Unix milliseconds."""


class Snapshot(NamedTuple):
    """A campaign as one atomic read saw it."""

    fields: dict[str, str]
    stock: dict[str, StockLine]
    now_us: int
    holders: bytes
    """What was appended to the log of holders since the offset asked for."""
    checkpoint: str


class LostOrder(NamedTuple):
    """An order as Kafka and MySQL have it, which Redis may have lost, or know in an older state."""

    digest: str
    fingerprint: str
    sku_id: str
    quantity: int
    user_id: str
    user_hash: bytes
    hold_no: int
    held: int
    """0 given back, 1 held and unpaid, 2 held and paid."""
    origin: str = ""
    """`<outbox id>/<place in it>` of its deduction if that is newer than Redis; else empty."""


async def admit(
    channel: ScriptChannel, campaign_id: str, orders: Sequence[OrderRequest], *, attempts_max: int, outbox_max: int
) -> BatchReply:
    """Decide a batch of orders of one campaign.

    Raises:
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
        BackendError: nothing was changed.
        OutcomeUnknownError: the reply was lost; the same orders may be asked again.
    """
    buyer = keys.buyer(campaign_id, "")
    names = [
        keys.campaign(campaign_id),
        keys.stock(campaign_id),
        keys.outbox(campaign_id),
        keys.holders(campaign_id),
        *[buyer + order.user_id for order in orders],
    ]
    packed = [b"\xdc", (2 * len(orders)).to_bytes(2, "big")]
    for order in orders:
        attempt, user = _pack(order[:4])[1:], _pack(order.user_id)  # the items of the array without its head
        packed += (_STRING_HEADS[len(attempt)], attempt, _STRING_HEADS[len(user)], user)
    reply = await channel.call(
        load_script("admit_orders"),
        names,
        [RUN_ID, b"".join(packed), attempts_max, outbox_max, b"".join([order.user_hash for order in orders])],
    )
    _refuse_fenced(campaign_id, reply[0])
    if reply[0] != BatchStatus.DECIDED:
        raise BackendError(f"campaign {campaign_id}: {BatchStatus(reply[0]).name}")
    flat, sold = _unpack_results(reply[4]), reply[5]
    return BatchReply(
        now_us=int(reply[1]),
        last_outbox_id=reply[2].decode(),
        holders_length=reply[3],
        decisions=[(_OUTCOMES[flat[i]], flat[i + 1]) for i in range(0, len(flat), 2)],
        sold_out={sold[i].decode(): sold[i + 1] for i in range(0, len(sold), 2)},
        run_id=channel.run_id,
    )


def _refuse_fenced(campaign_id: str, code: int) -> None:
    if code == BatchStatus.FENCED:
        raise FencedError(f"campaign {campaign_id}: closed until recovery has compared Redis with Kafka and MySQL")


def refuse_closed(campaign_id: str, code: int) -> None:
    """Raise what a script's code means if it refused as a whole.

    Raises:
        FencedError: Redis was restarted and recovery is not done.
        OperationRefusedError: there is no such campaign.
    """
    _refuse_fenced(campaign_id, code)
    if code == BatchStatus.UNKNOWN_CAMPAIGN:
        raise OperationRefusedError(f"there is no campaign {campaign_id!r}; load its file first")


async def restore(
    channel: ScriptChannel, campaign_id: str, orders: Sequence[LostOrder], newest_id: str, *, run_id: str
) -> int:
    """Bring orders to where Kafka and MySQL have them while the gate is closed; returns how many were not there.

    What is given back has to come before what takes those units. `newest_id` is the highest outbox id of all that is
    lost, with the last piece, and `0-0` with those before it. `run_id` is the server on which recovery compares.

    Raises:
        OperationRefusedError: they do not fit into the stock; a person has to look.
    """
    names = [
        keys.campaign(campaign_id),
        keys.stock(campaign_id),
        keys.outbox(campaign_id),
        keys.holders(campaign_id),
        keys.duplicates(campaign_id),
        *[keys.buyer(campaign_id, order.user_id) for order in orders],
    ]
    packed = _pack([(*o[:4], o.hold_no, int(o.held), o.origin) for o in orders])
    hashes = b"".join([o.user_hash for o in orders])
    code, count, sku_id = await channel.call(
        load_script("restore_orders"), names, [packed, newest_id, hashes, RUN_ID, run_id]
    )
    refuse_closed(campaign_id, code)
    if code != 1:
        raise OperationRefusedError(
            f"campaign {campaign_id!r}, SKU {sku_id.decode()!r}: orders that Kafka and MySQL hold do not fit into "
            f"Redis ({ {-1: 'stock is short', -9: 'unknown SKU', -11: 'a buyer record is corrupt'}[code] }); "
            f"the campaign stays closed"
        )
    return int(count)


async def open_gate(channel: ScriptChannel, campaign_id: str, run_id: str) -> bool:
    """Store the run id that recovery compared on; returns whether the gate was closed before."""
    code = await channel.call(
        load_script("open_gate"), [keys.campaign(campaign_id)], [run_id, campaign_id, keys.CHANGES, RUN_ID]
    )
    refuse_closed(campaign_id, code)
    return bool(code == 1)


def parse_stock_line(line: bytes) -> StockLine:
    """Read a SKU's numbers, see scripts/lua/include/stock_line.lua.

    Raises:
        PoisonRecordError: of another length.
    """
    try:
        return StockLine(*_STOCK_LINE.unpack(line))
    except struct.error:
        raise PoisonRecordError(f"not a stock line: {line[:80]!r}") from None


def pack_stock_line(line: StockLine) -> bytes:
    """Write a SKU's numbers, as the scripts do."""
    return _STOCK_LINE.pack(*line)


def read_attempts(packed: bytes | None) -> list[Attempt]:
    """Return the attempts in a buyer's record.

    Raises:
        PoisonRecordError: the record cannot be read.
    """
    if packed is None:
        return []
    try:
        return [Attempt(a[0], a[1], a[2], a[3], a[4], a[5] > 0) for a in _unpack_record(packed).attempts]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PoisonRecordError(f"a buyer record cannot be read: {error}") from None


def attempts_or_error(packed: bytes | None) -> list[Attempt] | PoisonRecordError:
    """Return the attempts in a buyer's record, or why it cannot be read."""
    try:
        return read_attempts(packed)
    except PoisonRecordError as error:
        return error


async def read_sure_attempts(
    client: "redis.Redis", buyers: Sequence[tuple[str, str]]
) -> list[list[Attempt] | PoisonRecordError | FencedError]:
    """Read buyers' records, each (campaign id, user id), in one round trip, if Redis has lost nothing of theirs.

    An attempt that is not among them was never accepted. Of a campaign whose gate is closed nobody can say that.

    Raises:
        BackendError: Redis is not there.
    """
    campaign_ids = list({campaign_id: None for campaign_id, _ in buyers})
    try:
        async with client.pipeline(transaction=False) as pipe:
            pipe.info("server")
            for campaign_id in campaign_ids:
                pipe.hget(keys.campaign(campaign_id), "run_id")
            # After the run ids: what recovery has put back by then is read.
            pipe.mget([keys.buyer(*buyer) for buyer in buyers])
            server, *run_ids, packed = await pipe.execute()
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    stored = dict(zip(campaign_ids, run_ids, strict=True))
    open_ = {campaign_id for campaign_id, run_id in stored.items() if run_id == server["run_id"].encode()}
    return [
        attempts_or_error(one) if campaign_id in open_ else FencedError(f"campaign {campaign_id}: closed")
        for (campaign_id, _), one in zip(buyers, packed, strict=True)
    ]


async def read_snapshot(client: "redis.Redis", campaign_id: str, holders_from: int = 0) -> Snapshot | None:
    """Read a campaign atomically; None if there is none.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        async with client.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.campaign(campaign_id))
            pipe.hgetall(keys.stock(campaign_id))
            pipe.time()
            pipe.getrange(keys.holders(campaign_id), holders_from, -1)
            pipe.hget(keys.relay(campaign_id), "checkpoint")
            fields, stock, now, holders, checkpoint = await pipe.execute()
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    if not fields:
        return None
    return Snapshot(
        fields={name.decode(): value.decode() for name, value in fields.items()},
        stock={sku.decode(): parse_stock_line(line) for sku, line in stock.items()},
        now_us=now[0] * 1_000_000 + now[1],
        holders=holders,
        checkpoint=(checkpoint or b"0-0").decode(),
    )


async def read_gates(client: "redis.Redis", campaign_ids: Sequence[str]) -> dict[str, CampaignGate]:
    """Read where campaigns stand now, in one round trip; the ones that there are.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        async with client.pipeline(transaction=False) as pipe:
            pipe.time()
            for campaign_id in campaign_ids:
                pipe.hmget(keys.campaign(campaign_id), "state", "opens_ms", "closes_ms")
            now, *found = await pipe.execute()
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    now_ms = now[0] * 1_000 + now[1] // 1_000
    return {
        campaign_id: CampaignGate(state.decode(), int(opens_ms), int(closes_ms), now_ms)
        for campaign_id, (state, opens_ms, closes_ms) in zip(campaign_ids, found, strict=True)
        if state is not None
    }


async def read_lines(
    client: "redis.Redis", skus: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], StockLine | PoisonRecordError]:
    """Read SKUs, each (campaign id, SKU id), in one round trip; the ones that there are, or why one cannot be read.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        async with client.pipeline(transaction=False) as pipe:
            for campaign_id, sku_id in skus:
                pipe.hget(keys.stock(campaign_id), sku_id)
            found = await pipe.execute()
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    return {sku: _line_or_error(line) for sku, line in zip(skus, found, strict=True) if line is not None}


def _line_or_error(line: bytes) -> StockLine | PoisonRecordError:
    try:
        return parse_stock_line(line)
    except PoisonRecordError as error:
        return error


async def read_kind(client: "redis.Redis", campaign_id: str) -> str:
    """Return a campaign's kind, which never changes; empty if there is no such campaign.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        kind = await client.hget(keys.campaign(campaign_id), "kind")
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    return kind.decode() if isinstance(kind, bytes) else ""


async def read_load_no(client: "redis.Redis", campaign_id: str) -> int:
    """Return the number of the last load that Redis has taken; 0 if it has taken none, or does not know the campaign.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        found = await client.hget(keys.campaign(campaign_id), "load_no")
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    return int(found) if isinstance(found, bytes) else 0


async def read_fence(client: "redis.Redis", campaign_id: str) -> tuple[str | None, str]:
    """Return the run id that may admit orders (None: no such campaign), and from where on orders may be lost.

    That is the newest outbox id, or the campaign's creation where nothing was sold yet.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        names = ["run_id", "last_outbox_id", "created_ms"]
        run_id, last, created_ms = await client.hmget(keys.campaign(campaign_id), names)
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    since = last.decode() if isinstance(last, bytes) else START
    if since == START and isinstance(created_ms, bytes):
        since = f"{created_ms.decode()}-0"
    return (run_id.decode() if isinstance(run_id, bytes) else None), since


async def list_campaigns(client: "redis.Redis") -> list[str]:
    """Return the ids of all loaded campaigns, sorted.

    Raises:
        BackendError: Redis is not there.
    """
    try:
        async with asyncio.timeout(5):
            names = await client.smembers(keys.CAMPAIGNS)
            return sorted(name.decode() for name in names if isinstance(name, bytes))
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
