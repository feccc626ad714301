"""A lottery's draws: which number decides one, what it wins, and the log by which anybody can check both.

Before a lottery opens, the SHA-256 of its secret seed is published. A draw is decided by

    u      = HMAC-SHA256(seed, "<campaign>:<user>"), 32 bytes: made by the gateway
    number = the first 48 bits of SHA-1(u followed by n, in decimal), for the user's n-th draw: made by `draw_prize.lua`
    place  = number modulo the summed weights of the prizes that have stock left, and of "no prize"

and the place is counted off along the prizes in the order of the campaign file, "no prize" last. All of these are
whole numbers. Whatever changes a prize's stock is a line of the log, which is a chain of SHA-1 hashes (Redis offers
scripts no other); the first goes on from the campaign's id.

    open <commitment> <draws per user> <weight of no prize> <sku>,<weight>,<points>,<stock> …
    draw <draw, 32 hex> <n> <points> <sku, empty for none> <user>
    topup <units> <sku> <key of the top-up>
    release <units> <sku> <draw>          a prize that came back
    return <units> <sku> <draw> <origin>  a prize that was taken twice for one draw, for the second time
    take <units> <sku> <draw>             a prize that was taken for a draw once more, by a person
    close
    withdraw <units> <sku> <in all>       what was not won and went back to the warehouse, after the close

Lines are numbered from 1 on. They come in entries, one a batch; an entry's hash is that of the hash before, a blank,
the number of its first line, a blank, and its lines as MessagePack strings (0xDA, length in two bytes, UTF-8). Pure.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from domain.campaign import Campaign
from domain.errors import PoisonRecordError
from domain.order import fingerprint

SEED_BYTES: Final = 32
NUMBER_DIGITS: Final = 12
"""Hex digits of a hash that make a draw's number: 48 bits, which a script's numbers hold exactly."""
TABLES_REMEMBERED_MAX: Final = 64
KEYED_REMEMBERED_MAX: Final = 64
PRIZE_UNITS: Final = 1
"""A draw wins one unit."""


WITHDRAW: Final = "withdraw"
MOVES: Final = {"topup": 1, "release": 1, "return": 1, "take": -1, WITHDRAW: -1}
"""What moves a prize's stock without a draw, and which way."""


class Prize(NamedTuple):
    """One kind of prize, as `draw_prize.lua` gets it; the order is that of the campaign file."""

    sku_id: str
    weight: int
    points: int
    fingerprint: str
    """Of the order that a won one becomes."""


def prizes_of(campaign: Campaign) -> list[Prize]:
    """Return a lottery's prizes in the order of its file."""
    return [Prize(sku.id, sku.weight, sku.points, fingerprint(sku.id, PRIZE_UNITS)) for sku in campaign.sku]


@lru_cache(maxsize=TABLES_REMEMBERED_MAX)
def parse_prizes(table: str) -> tuple[Prize, ...]:
    """Return the prizes of a lottery from the table in its hash; a process sees few tables.

    Raises:
        PoisonRecordError: it is no such table.
    """
    try:
        return msgspec.json.decode(table, type=tuple[Prize, ...])
    except msgspec.MsgspecError as error:
        raise PoisonRecordError(f"not a table of prizes: {error}") from None


def commitment(seed: bytes) -> str:
    """Return what is published of a seed before the lottery opens."""
    return hashlib.sha256(seed).hexdigest()


@lru_cache(maxsize=KEYED_REMEMBERED_MAX)
def _keyed(seed: bytes, campaign_id: str) -> "hmac.HMAC":
    return hmac.new(seed, f"{campaign_id}:".encode(), "sha256")


def user_secret(seed: bytes, campaign_id: str, user_id: str) -> bytes:
    """Return u, 32 bytes: a campaign's id holds no colon, so no two buyers share one."""
    mac = _keyed(seed, campaign_id).copy()  # half the price of a new one, and one is made for every draw
    mac.update(user_id.encode())
    return mac.digest()


def number_of(secret: bytes, n: int) -> int:
    """Return the 48-bit number that decides a user's n-th draw, from 1 on.

    Args:
        secret: u.
        n: which draw.
    """
    digest = hashlib.sha1(secret + str(n).encode(), usedforsecurity=False).hexdigest()
    return int(digest[:NUMBER_DIGITS], 16)


def pick(number: int, weights: Sequence[int], remaining: Sequence[int], no_prize_weight: int) -> int | None:
    """Return which prize a number wins, -1 for none of them, or None where there is nothing left to draw from.

    Args:
        number: decides.
        weights: of the prizes, in file order.
        remaining: units left of each.
        no_prize_weight: stands behind them.
    """
    total = sum(weight for weight, left in zip(weights, remaining, strict=True) if left > 0) + no_prize_weight
    if total == 0:
        return None
    place = number % total
    for index, (weight, left) in enumerate(zip(weights, remaining, strict=True)):
        if left <= 0:
            continue
        if place < weight:
            return index
        place -= weight
    return -1


# -- the log -------------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """The first line: what is drawn from."""

    commitment: str
    draws_per_user: int
    no_prize_weight: int
    skus: list[str]
    weights: list[int]
    points: list[int]
    remaining: list[int]


class Drawn(NamedTuple):
    """A draw, won or not."""

    digest: str
    """32 hex: with the campaign's id in front, the draw's id."""
    n: int
    """Which of its user's draws it is, from 1 on."""
    points: int
    sku_id: str
    """Empty where nothing was won."""
    user_id: str


class Moved(NamedTuple):
    """Units of a prize that came or went without a draw."""

    kind: str
    """See MOVES."""
    units: int
    sku_id: str
    reference: str


class Closed(NamedTuple):
    """Nothing can be drawn any more."""


What = Opened | Drawn | Moved | Closed


class LogEntry(NamedTuple):
    """An entry of the log."""

    seq: int
    """Number of its first line."""
    hash: str
    lines: tuple[str, ...]

    @property
    def last_seq(self) -> int:
        """Number of its last line."""
        return self.seq + len(self.lines) - 1


def pack_lines(lines: Iterable[str]) -> bytes:
    """Return lines as they are hashed."""
    packed: list[bytes] = []
    for line in lines:
        raw = line.encode()
        packed += (b"\xda", len(raw).to_bytes(2, "big"), raw)
    return b"".join(packed)


def entry_hash(before: str, seq: int, lines: Iterable[str]) -> str:
    """Return an entry's hash, from the hash of the entry before."""
    return hashlib.sha1(f"{before} {seq} ".encode() + pack_lines(lines), usedforsecurity=False).hexdigest()


def parse_line(text: str) -> What:
    """Read a line.

    Raises:
        PoisonRecordError: it is none.
    """
    kind, _, rest = text.partition(" ")
    try:
        return _parse(kind, rest)
    except ValueError:
        raise PoisonRecordError(f"not a line of a lottery's log: {text[:120]!r}") from None


def _parse(kind: str, rest: str) -> What:
    if kind == "draw":
        digest, n, points, sku_id, user_id = rest.split(" ", 4)
        return Drawn(digest, int(n), int(points), sku_id, user_id)
    if kind == "open":
        published, draws, none, *prizes = rest.split(" ")
        rows = [prize.split(",") for prize in prizes]
        skus, *numbers = zip(*rows, strict=True)
        weights, worth, remaining = ([int(value) for value in column] for column in numbers)
        return Opened(published, int(draws), int(none), list(skus), weights, worth, remaining)
    if kind in MOVES:
        units, sku_id, reference = rest.split(" ", 2)
        return Moved(kind, int(units), sku_id, reference)
    if kind == "close" and not rest:
        return Closed()
    raise ValueError(kind)


class Fault(NamedTuple):
    """What is wrong with a log."""

    seq: int
    """Of the line at fault; 0 where it is the whole."""
    text: str


class Verdict(NamedTuple):
    """What a log comes to."""

    lines: int
    draws: int
    won: dict[str, int]
    """Draws that won, by SKU."""
    points: int
    remaining: dict[str, int]
    """Units left of each prize, by the log."""
    last_seq: int
    last_hash: str
    closed: bool
    faults: list[Fault]


class Replay:
    """Goes through a log line by line, and draws every draw again.

    A draw with another prize than its number wins is one fault: what follows is held against what should have been won.

    Args:
        campaign_id: whose log.
        seed: the secret, or the one that was revealed.
    """

    def __init__(self, campaign_id: str, seed: bytes) -> None:
        self._campaign_id = campaign_id
        self._seed = seed
        self._opened: Opened | None = None
        self._remaining: list[int] = []
        self._places: dict[str, int] = {}
        self._seq, self._hash = 0, campaign_id
        self._lines = self._draws = self._points = 0
        self._won: dict[str, int] = {}
        self._drawn: dict[str, int] = {}
        self._digests: set[str] = set()
        self._closed = False
        self._faults: list[Fault] = []

    def feed(self, entries: Iterable[LogEntry]) -> None:
        """Take in the next entries, in order of their numbers, each once.

        Raises:
            PoisonRecordError: a line cannot be read.
        """
        for entry in entries:
            self._chain(entry)
            for seq, text in enumerate(entry.lines, start=entry.seq):
                self._take(seq, parse_line(text))

    def _take(self, seq: int, what: What) -> None:
        self._lines += 1
        if isinstance(what, Opened):
            self._open(seq, what)
        elif self._opened is None:
            self._fault(seq, "stands before the line that opens the lottery")
        elif isinstance(what, Drawn):
            self._draw(seq, self._opened, what)
        elif isinstance(what, Moved):
            self._move(seq, what)
        else:
            self._closed = True

    def verdict(self) -> Verdict:
        """Return what the lines so far come to."""
        skus = self._opened.skus if self._opened else []
        return Verdict(
            lines=self._lines,
            draws=self._draws,
            won=dict(self._won),
            points=self._points,
            remaining=dict(zip(skus, self._remaining, strict=True)),
            last_seq=self._seq,
            last_hash=self._hash if self._lines else "",
            closed=self._closed,
            faults=list(self._faults),
        )

    def _fault(self, seq: int, text: str) -> None:
        self._faults.append(Fault(seq, text))

    def _chain(self, entry: LogEntry) -> None:
        """Hold an entry against the one before it, and go on from the hash that it gives itself."""
        if entry.seq != self._seq + 1:
            self._fault(entry.seq, f"follows line {self._seq}: lines are missing, or one number stands there twice")
        elif entry_hash(self._hash, entry.seq, entry.lines) != entry.hash:
            self._fault(
                entry.seq, f"lines up to {entry.last_seq}: their hash is not that of the one before and of them"
            )
        self._seq, self._hash = entry.last_seq, entry.hash

    def _open(self, seq: int, opened: Opened) -> None:
        if self._opened is not None:
            self._fault(seq, "the lottery was opened before")
            return
        if opened.commitment != commitment(self._seed):
            self._fault(seq, "the seed is not the one whose SHA-256 was published")
        self._opened, self._remaining = opened, list(opened.remaining)
        self._places = {sku_id: place for place, sku_id in enumerate(opened.skus)}

    def _draw(self, seq: int, opened: Opened, drawn: Drawn) -> None:
        self._draws += 1
        if self._closed:
            self._fault(seq, "drawn after the lottery was closed")
        if drawn.digest in self._digests:
            self._fault(seq, f"draw {drawn.digest} stands in the log twice")
        self._digests.add(drawn.digest)
        n = self._drawn.get(drawn.user_id, 0) + 1
        self._drawn[drawn.user_id] = n
        if drawn.n != n or n > opened.draws_per_user:
            self._fault(seq, f"is draw {drawn.n} of user {drawn.user_id!r}: should be {n} of {opened.draws_per_user}")
        number = number_of(user_secret(self._seed, self._campaign_id, drawn.user_id), drawn.n)
        place = pick(number, opened.weights, self._remaining, opened.no_prize_weight)
        prize = opened.skus[place] if place is not None and place >= 0 else ""
        points = opened.points[place] if place is not None and place >= 0 else 0
        if (drawn.sku_id, drawn.points) != (prize, points):
            self._fault(seq, f"won {_told(drawn.sku_id, drawn.points)}; its number wins {_told(prize, points)}")
        if place is not None and place >= 0:
            self._remaining[place] -= PRIZE_UNITS
            self._won[prize] = self._won.get(prize, 0) + 1
            self._points += points

    def _move(self, seq: int, moved: Moved) -> None:
        place = self._places.get(moved.sku_id)
        if place is None or moved.units < 1:
            self._fault(seq, f"moves {moved.units} units of {moved.sku_id!r}, which cannot be")
            return
        if moved.kind == WITHDRAW and not self._closed:
            self._fault(seq, f"withdraws units of {moved.sku_id!r} before the lottery was closed")
        self._remaining[place] += MOVES[moved.kind] * moved.units
        if self._remaining[place] < 0:
            self._fault(seq, f"takes units of {moved.sku_id!r} that are not there")


def _told(sku_id: str, points: int) -> str:
    return f"{sku_id!r} ({points} points)" if sku_id else "nothing"
