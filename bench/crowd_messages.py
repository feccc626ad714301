"""What a crowd's process is told and tells, one JSON document a line."""

from collections.abc import Callable
from typing import Final

import msgspec

from bench.crowd import Draw


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a crowd is to do.

    Attributes:
        host, port: of the buyer plane.
        kind: of the campaign: sale, lottery or redemption.
        campaign_id, sku_id: what everybody wants; in a lottery one of its prizes.
        key_file, audience: what tokens are signed with, and whom they are for.
        buyers, seed: see `bench.crowd_orders` and `bench.crowd_draws`.
        lanes: connections at most.
        pay_within_s: how long after `go` no order can have expired; of a sale.
        empty_handed_max: how many of those who were told SOLD_OUT to name.
        draws_per_user, prizes: of a lottery; SKU id → points.
    """

    host: str
    port: int
    kind: str
    campaign_id: str
    sku_id: str
    key_file: str
    audience: str
    buyers: int
    seed: int
    lanes: int
    pay_within_s: float = 0.0
    empty_handed_max: int = 0
    draws_per_user: int = 1
    prizes: dict[str, int] = {}


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a crowd has come; `counts` is that of the crowd: buyers by outcome, and more."""

    seconds: float
    sent: int
    counts: dict[str, int]


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Everybody is there, every connection has seen that the sale is on; `go` sets them off."""

    lanes: int


class Result(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """What became of everybody.

    Attributes:
        seconds: from `go` to the last answer.
        accepting_s: from `go` to the last acceptance of a new order.
        sent: requests.
        counts: as of `Progress`.
        answers: problem code (or ACCEPTED, NO_ANSWER) → how many.
        replays: acceptances or draws told again.
        retries: requests sent again after 429, 503 or none.
        untrue: what → how many; see `examples`.
        order_ids: all that were answered 202; in a lottery the draws that won.
        draws: all that were told, of a lottery.
        empty_handed: numbers of buyers who were told SOLD_OUT, `empty_handed_max` at most.
        p50_ms, p99_ms, max_ms: from the moment a buyer was ready to send to the answer.
        cpu_s: of the crowd's process since `go`.
        ended_monotonic_s: when the last answer came, by the clock that all processes of a machine share.
    """

    seconds: float
    accepting_s: float
    sent: int
    counts: dict[str, int]
    answers: dict[str, int]
    replays: int
    retries: int
    untrue: dict[str, int]
    examples: list[str]
    order_ids: list[str]
    draws: list[Draw]
    empty_handed: list[int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_s: float
    ended_monotonic_s: float


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The crowd could not do its job; why, in one line."""

    why: str


Message = Progress | Ready | Result | Failed

GO: Final = b"go\n"

_encode: Final = msgspec.json.Encoder().encode
_decode: Final[Callable[[bytes], Message]] = msgspec.json.Decoder(Message).decode


def to_line(message: Message) -> bytes:
    """Return a message as a line."""
    return _encode(message) + b"\n"


def from_line(line: bytes) -> Message:
    """Return the message of a line.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decode(line)
