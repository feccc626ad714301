"""Taking redemptions: as orders are taken (gateway/orders.py), with three checks between the refusals and the script.

Campaign, stock and points are looked at anew, all three at the same time, each for all redemptions that wait: one round
trip a check (gateway/group_commit.py). What passes is admitted as an order is; what does not is refused, unless the
buyer's record says that this key was accepted before: then the script answers, which replays it. While recovery has not
compared, no record says that it was not, and nobody is refused.

The points are in another store than the stock. If that store is slow, redemptions wait and are turned away, and no more
than `checks_inflight_max` of them take the places of orders.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from adapters.stock import Attempt, CampaignGate, OrderRequest, StockLine
from domain.campaign import REDEMPTION
from domain.errors import BackendError, FencedError, PoisonRecordError
from domain.settings import GatewaySettings
from gateway.answers import BUSY_NOW, Answer
from gateway.group_commit import GroupCommit
from gateway.metrics import GatewayMetrics
from gateway.orders import OrderDesk, Promise, Waiting
from gateway.redemption_rules import NOT_CHECKED, SILENT, Refusal, Silence, Told, judge, refuse

K = TypeVar("K")
V = TypeVar("V")

Sku = tuple[str, str]
"""Campaign id, SKU id."""


Found = list[Attempt] | PoisonRecordError | FencedError
"""A buyer's attempts; or why his record cannot be read; or that Redis may have lost some of them."""


class Looks(NamedTuple):
    """How the stores are asked; each raises BackendError if its store is not there."""

    gates: Callable[[Sequence[str]], Awaitable[Mapping[str, CampaignGate]]]
    """Campaign ids → where they stand."""
    lines: Callable[[Sequence[Sku]], Awaitable[Mapping[Sku, StockLine | PoisonRecordError]]]
    """SKUs → their numbers."""
    balances: Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
    """Users → their points."""
    attempts: Callable[[Sequence[tuple[str, str]]], Awaitable[Sequence[Found]]]
    """Buyers → the attempts in their records, in the same order."""


class Checking:
    """A redemption whose checks are under way."""

    __slots__ = ("balance", "campaign_id", "gate", "left", "line", "refusal", "waiting")

    def __init__(self, campaign_id: str, waiting: Waiting) -> None:
        self.campaign_id = campaign_id
        self.waiting = waiting
        self.left = CHECKS
        """Checks that have not come back."""
        self.gate: CampaignGate | Silence | None = SILENT
        self.line: StockLine | PoisonRecordError | Silence | None = SILENT
        self.balance: int | Silence | None = SILENT
        self.refusal = NOT_CHECKED
        """What it is told if it was not accepted before; once it is judged."""

    def sku(self) -> Sku:
        """Return what is wanted."""
        return self.campaign_id, self.waiting.order.sku_id

    def user_id(self) -> str:
        """Return who wants it."""
        return self.waiting.order.user_id

    def is_among(self, attempts: Iterable[Attempt]) -> bool:
        """Tell whether it is one of its buyer's attempts."""
        digest = self.waiting.order.digest
        return any(attempt.digest == digest for attempt in attempts)

    def told(self) -> Told:
        """Return what the stores have said."""
        return Told(self.gate, self.line, self.balance)


CHECKS: Final = 3


class Check(Generic[K, V]):
    """One of the checks, for all redemptions of a worker.

    Args:
        of: what is asked for a redemption.
        look: asks the store for many at once, each once.
        note: takes what the store has said for a redemption, None if there is no such thing.
        silent: takes a redemption for which the store has said nothing.
        settings: bounds.
    """

    def __init__(
        self,
        of: Callable[[Checking], K],
        look: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        note: Callable[[Checking, V | None], None],
        silent: Callable[[Checking], None],
        settings: GatewaySettings,
    ) -> None:
        self._of = of
        self.look = look
        self._note = note
        self._silent = silent
        self._timeout_s = settings.check_timeout_s
        self._queue: GroupCommit[Checking] = GroupCommit(
            self._send, self._give_up, batch_max=settings.batch_max, wait_max_s=settings.check_timeout_s
        )

    def begin(self, one: Checking) -> None:
        """Have a redemption checked."""
        self._queue.submit(one)

    async def _send(self, batch: list[Checking]) -> None:
        """Ask for a batch; each of its redemptions is told, whatever happens."""
        of = self._of
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self.look(list({of(one): None for one in batch}))
        except (BackendError, TimeoutError):
            self._give_up(batch)
            return
        except BaseException:
            self._give_up(batch)
            raise
        for one in batch:
            self._note(one, found.get(of(one)))

    def _give_up(self, batch: list[Checking]) -> None:
        for one in batch:
            self._silent(one)


class RedemptionDesk:
    """Takes redemptions in for one worker.

    Args:
        settings: bounds.
        orders: the same worker's desk of orders, which decides what has passed.
        looks: how the stores are asked.
        metrics: counts.
    """

    def __init__(self, settings: GatewaySettings, orders: OrderDesk, looks: Looks, metrics: GatewayMetrics) -> None:
        self._orders = orders
        self._attempts = looks.attempts
        self._metrics = metrics
        self._timeout_s = settings.check_timeout_s
        self._checking_max = settings.checks_inflight_max
        self.campaign = Check(lambda one: one.campaign_id, looks.gates, self._note_gate, self._told, settings)
        self.stock = Check(Checking.sku, looks.lines, self._note_line, self._told, settings)
        self.points = Check(Checking.user_id, looks.balances, self._note_balance, self._told, settings)
        self._refused: GroupCommit[Checking] = GroupCommit(
            self._recall, self._give_up, batch_max=settings.batch_max, wait_max_s=settings.check_timeout_s
        )
        self.checking = 0
        """Redemptions that are being checked, or asked after; they count as waiting orders, too."""

    def place(self, authorization: bytes | None, key: bytes | None, body: bytes, promise: Promise) -> Answer | None:
        """Take one `POST /v1/redemptions` in: answer it at once, or have it checked and promise an answer."""
        return self._orders.place(authorization, key, body, promise, REDEMPTION, self._check)

    def _check(self, campaign_id: str, whole_id: str, order: OrderRequest, promise: Promise) -> Answer | None:
        if self.checking >= self._checking_max:
            self._metrics.busy += 1
            return BUSY_NOW
        self.checking += 1
        self._orders.waiting += 1
        self._begin(Checking(campaign_id, Waiting(order, whole_id, promise())))
        return None

    # -- the checks ------------------------------------------------------------------------------------------------

    def _begin(self, one: Checking) -> None:
        """Begin all checks; none waits for another."""
        for check in (self.campaign, self.stock, self.points):
            check.begin(one)

    def _note_gate(self, one: Checking, gate: CampaignGate | None) -> None:
        one.gate = gate
        self._told(one)

    def _note_line(self, one: Checking, line: StockLine | PoisonRecordError | None) -> None:
        one.line = line
        self._told(one)

    def _note_balance(self, one: Checking, balance: int | None) -> None:
        one.balance = balance
        self._told(one)

    def _told(self, one: Checking) -> None:
        """Go on once all checks have come back."""
        one.left -= 1
        if not one.left:
            self._judge(one)

    def _judge(self, one: Checking) -> None:
        told, quantity = one.told(), one.waiting.order.quantity
        verdicts = judge(told, quantity)
        for check, verdict in zip(verdicts._fields, verdicts, strict=True):
            self._metrics.checked(check, verdict)
        refusal = refuse(verdicts, told, quantity)
        if refusal is None:
            self._pass_on(one)
        else:
            self._refuse(one, refusal)

    def _pass_on(self, one: Checking) -> None:
        self.checking -= 1
        self._orders.submit(one.campaign_id, one.waiting)

    # -- what was accepted before ----------------------------------------------------------------------------------

    def _refuse(self, one: Checking, refusal: Refusal) -> None:
        """Refuse a redemption, unless it was accepted before: its own acceptance may be why the checks fail now."""
        one.refusal = refusal
        self._refused.submit(one)

    async def _recall(self, batch: list[Checking]) -> None:
        """Look the refused up in their buyers' records; each of them is answered or passed on, whatever happens."""
        try:
            async with asyncio.timeout(self._timeout_s):
                records = await self._attempts([(one.campaign_id, one.user_id()) for one in batch])
        except (BackendError, TimeoutError):
            self._give_up(batch)
            return
        except BaseException:
            self._give_up(batch)
            raise
        for one, found in zip(batch, records, strict=True):
            if isinstance(found, FencedError):
                self._give_up([one])
            elif isinstance(found, PoisonRecordError) or one.is_among(found):
                self._pass_on(one)
            else:
                self._tell(one)

    def _give_up(self, batch: list[Checking]) -> None:
        """Refuse none of them for good, for any may have been accepted before."""
        for one in batch:
            one.refusal = NOT_CHECKED
            self._tell(one)

    def _tell(self, one: Checking) -> None:
        self.checking -= 1
        self._metrics.refused_by_checks(one.refusal.code)
        self._orders.tell(one.waiting, one.refusal.answer)
