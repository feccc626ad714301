"""A campaign as a worker sees it in memory, and what may be decided from that alone. No I/O; clocks are passed in.

Everything here is a shortcut: whatever is not refused here is decided by `admit_orders.lua`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from domain.campaign import CampaignState, SkuState
from domain.errors import PoisonRecordError
from domain.lottery import Prize, parse_prizes
from domain.outbox import parse_outbox_id
from domain.outcomes import Outcome

if TYPE_CHECKING:  # the types only: what decides imports no I/O library, not through others either
    from adapters.stock import Snapshot, StockLine

VIEW_AGE_MAX_S: Final = 2.0
"""An older view decides nothing: Redis may have been away, and with it the news of a top-up."""

WINDOW_MARGIN_MS: Final = 100
"""Near the window's edges Redis decides, by its own clock."""

GUARD_FACTOR: Final = 2
"""A worker's loose guard lets through this many times the campaign's rate; the exact bucket is the script's."""


@dataclass(frozen=True, slots=True)
class SoldOut:
    """A SKU had nothing left, as of this epoch of its stock in this Redis."""

    run_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class LotteryView:
    """What a lottery has besides."""

    seed: bytes = field(repr=False)
    """The secret, until the lottery is closed."""
    commitment: str
    is_revealed: bool
    """The lottery is closed, and that is in Kafka: the seed may be told."""
    draws_per_user: int
    no_prize_weight: int
    prizes: tuple[Prize, ...]
    is_exhausted: bool
    """There is nothing left to draw from."""


@dataclass(frozen=True, slots=True)
class CampaignView:
    """One campaign, as of one atomic read."""

    id: str
    kind: str
    state: CampaignState
    run_id: str
    opens_ms: int
    closes_ms: int
    admit_per_s: int
    admit_burst: int
    user_per_s: int
    user_burst: int
    stock: "dict[str, StockLine]"
    sold_out: dict[str, SoldOut]
    read_at_s: float
    """Monotonic time of the read."""
    redis_ms_at_read: int
    on_sale_until_s: float
    """Until then, by our monotonic clock, the campaign is certainly open, in its window, and this view fresh."""
    lottery: "LotteryView | None" = None
    """Of a lottery."""

    def redis_ms(self, now_s: float) -> int:
        """Estimate Redis's clock, Unix ms."""
        return self.redis_ms_at_read + round((now_s - self.read_at_s) * 1000)

    def is_fresh(self, now_s: float) -> bool:
        """Tell whether the view is young enough to refuse by."""
        return now_s - self.read_at_s <= VIEW_AGE_MAX_S


def make_view(campaign_id: str, snapshot: "Snapshot", now_s: float) -> CampaignView:
    """Build the view of an atomic read that was made at monotonic time `now_s`."""
    fields = snapshot.fields
    redis_ms = snapshot.now_us // 1000
    return CampaignView(
        id=campaign_id,
        kind=fields["kind"],
        state=CampaignState(fields["state"]),
        run_id=fields["run_id"],
        opens_ms=int(fields["opens_ms"]),
        closes_ms=int(fields["closes_ms"]),
        admit_per_s=int(fields["admit_per_s"]),
        admit_burst=int(fields["admit_burst"]),
        user_per_s=int(fields["user_per_s"]),
        user_burst=int(fields["user_burst"]),
        stock=snapshot.stock,
        sold_out={
            sku: SoldOut(fields["run_id"], line.epoch) for sku, line in snapshot.stock.items() if line.remaining == 0
        },
        read_at_s=now_s,
        redis_ms_at_read=redis_ms,
        on_sale_until_s=now_s + _certainly_on_sale_s(fields, redis_ms),
        lottery=_lottery(snapshot) if "prizes" in fields else None,
    )


def _lottery(snapshot: "Snapshot") -> LotteryView:
    fields, no_prize_weight = snapshot.fields, int(snapshot.fields["no_prize_weight"])
    ended = fields["state"] == CampaignState.CLOSED and "log_end_id" in fields
    try:
        seed = bytes.fromhex(fields["seed"])
    except (KeyError, ValueError):
        raise PoisonRecordError("a lottery without its seed: load its file again") from None
    return LotteryView(
        seed=seed,
        commitment=fields["commitment"],
        is_revealed=ended and parse_outbox_id(snapshot.checkpoint) >= parse_outbox_id(fields["log_end_id"]),
        draws_per_user=int(fields["draws_per_user"]),
        no_prize_weight=no_prize_weight,
        prizes=parse_prizes(fields["prizes"]),
        is_exhausted=no_prize_weight == 0 and not any(line.remaining for line in snapshot.stock.values()),
    )


def _certainly_on_sale_s(fields: dict[str, str], redis_ms: int) -> float:
    """Return for how many seconds from its read on a view says that the campaign is open and in its window."""
    if fields["state"] != CampaignState.OPEN or redis_ms < int(fields["opens_ms"]):
        return 0.0
    return min(VIEW_AGE_MAX_S, (int(fields["closes_ms"]) - WINDOW_MARGIN_MS - redis_ms) / 1000)


def refuse_from_memory(view: CampaignView, sku_id: str, now_s: float) -> Outcome | None:
    """Return the refusal that is certain from memory, or None: ask Redis.

    Only for buyers who hold nothing; the caller has asked the holder filter, read no earlier than the view.
    """
    if now_s < view.on_sale_until_s:
        return _refuse_sku(view, sku_id)
    if not view.is_fresh(now_s):
        return None
    return _refuse_by_time(view, now_s) or _refuse_sku(view, sku_id)


def refuse_draw_from_memory(view: CampaignView, now_s: float) -> Outcome | None:
    """Return the refusal of a draw that is certain from memory, or None: ask Redis. As `refuse_from_memory`."""
    if now_s >= view.on_sale_until_s:
        if not view.is_fresh(now_s):
            return None
        refused = _refuse_by_time(view, now_s)
        if refused is not None:
            return refused
    return Outcome.SOLD_OUT if view.lottery is not None and view.lottery.is_exhausted else None


def _refuse_by_time(view: CampaignView, now_s: float) -> Outcome | None:
    """Return the refusal by a fresh view's state and window."""
    redis_ms = view.redis_ms(now_s)
    # By the clock alone only if the holders were read after the end: an order of the last moment may be retried now.
    if view.state == CampaignState.CLOSED or view.redis_ms_at_read >= view.closes_ms:
        return Outcome.ENDED
    if view.state == CampaignState.LOADED or redis_ms < view.opens_ms - WINDOW_MARGIN_MS:
        return Outcome.NOT_STARTED
    if view.state == CampaignState.PAUSED and view.opens_ms <= redis_ms < view.closes_ms - WINDOW_MARGIN_MS:
        return Outcome.PAUSED
    return None


def _refuse_sku(view: CampaignView, sku_id: str) -> Outcome | None:
    if sku_id in view.sold_out:
        return Outcome.SOLD_OUT
    return None if sku_id in view.stock else Outcome.UNKNOWN_SKU


def sku_state(view: CampaignView, sku_id: str, now_s: float) -> SkuState:
    """Return what buyers are told of a SKU."""
    redis_ms = view.redis_ms(now_s)
    if view.state == CampaignState.CLOSED or redis_ms >= view.closes_ms:
        return SkuState.ENDED
    if view.state == CampaignState.LOADED or redis_ms < view.opens_ms:
        return SkuState.UPCOMING
    return SkuState.SOLD_OUT if sku_id in view.sold_out else SkuState.ON_SALE


class LooseGuard:
    """A token bucket in a worker's memory that keeps a flood from the script; not exact, by intent."""

    __slots__ = ("_at_s", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: int, burst: int, now_s: float) -> None:
        self._per_s = per_s * GUARD_FACTOR
        self._burst = burst * GUARD_FACTOR
        self._tokens = float(self._burst)
        self._at_s = now_s

    def admits(self, now_s: float) -> bool:
        """Take a token if there is one."""
        tokens = self._tokens
        if now_s > self._at_s:
            tokens += (now_s - self._at_s) * self._per_s
            tokens = min(tokens, self._burst)
        self._at_s = now_s
        passes = tokens >= 1
        self._tokens = tokens - 1 if passes else tokens
        return passes

    def give_back(self) -> None:
        """Put a token back."""
        self._tokens = min(self._burst, self._tokens + 1)
