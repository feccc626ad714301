"""What the warehouse, two campaigns and their orders have to come to, told in plain arithmetic and nothing else.

The model does what it is told, as the real thing does, and keeps every number by itself: what the catalog has, what
Redis has, and what one still owes the other because somebody was killed in between. It shares no code with the
product.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from tests.support.warehouse_figures import Campaign, Close, File, Goods, Line, Load, Order, TopUp

TRIES_MAX: Final = 5
HOLDING: Final = frozenset({"confirmed", "paid", "approved", "shipped"})
KEPT: Final = frozenset({"paid", "approved", "shipped"})
"""Orders whose buyers' money is ours."""


class RefusedError(Exception):
    """Refused, and nothing changed by it; the text is a word that says why."""


class KilledError(Exception):
    """Whoever was at work died at a fail point."""


class Model:
    """All of it.

    Args:
        skus: what there is.
        campaigns: ids of campaigns that may be loaded.
    """

    def __init__(self, skus: Sequence[str], campaigns: Sequence[str]) -> None:
        self.goods = {sku: Goods() for sku in skus}
        self.campaigns = {one: Campaign(one, {sku: Line() for sku in skus}) for one in campaigns}
        self.orders: dict[str, Order] = {}
        self.moves: dict[tuple[str, str], tuple[str, int, str]] = {}
        self.dues: list[Load | TopUp | Close] = []
        self.parcels: list[Order] = []
        """To leave, or to be taken in, in the order in which that was decided."""
        self.undone: Counter[str] = Counter()
        self._dies_at = ""
        self._reached: list[str] = []

    @contextlib.contextmanager
    def killed_at(self, fail_point: str) -> Iterator[None]:
        """Have whoever reaches a fail point first die there."""
        self._dies_at = fail_point
        yield
        self._dies_at = ""

    def _reach(self, fail_point: str) -> None:
        self._reached.append(fail_point)
        if fail_point == self._dies_at:
            self._dies_at = ""
            raise KilledError(fail_point)

    # -- by hand -----------------------------------------------------------------------------------------------

    def move(self, kind: str, sku: str, units: int, key: str, warehouse: str = "") -> bool:
        """Move units by hand; returns whether it was done now."""
        goods = self.goods[sku]
        if units < 1:
            raise RefusedError("number")
        if (kind, key) in self.moves:
            if self.moves[kind, key] != (sku, units, warehouse):
                raise RefusedError("key")
            return False
        if units > {"receive": units, "reserve": goods.free}.get(kind, goods.reserved):
            raise RefusedError("short")
        match kind:
            case "receive":
                goods.received[warehouse] = goods.received.get(warehouse, 0) + units
            case "reserve":
                goods.reserved += units
            case "unreserve":
                goods.reserved -= units
            case "ship":
                goods.reserved -= units
                goods.shipped += units
        self.moves[kind, key] = (sku, units, warehouse)
        return True

    # -- campaigns ---------------------------------------------------------------------------------------------

    def load(self, campaign: Campaign, file: File) -> str:
        """Load a file; returns what came of it."""
        for _ in range(TRIES_MAX):
            self._ask_redis(campaign, file)
            under_way = [one for one in self.dues if isinstance(one, Load) and one.campaign is campaign]
            if not under_way:
                return self._begin_load(campaign, file)
            with contextlib.suppress(RefusedError):
                self._finish(under_way[0])
        raise AssertionError("nobody else loads")

    def _ask_redis(self, campaign: Campaign, file: File) -> None:
        for sku, stock in file.items():
            line = campaign.lines[sku]
            if campaign.in_redis and line.in_redis + stock - line.file < line.held:
                raise RefusedError("sold")

    def _begin_load(self, campaign: Campaign, file: File) -> str:
        lines, is_new = campaign.lines, not campaign.in_redis
        if campaign.file == file and all(lines[sku].in_file == stock for sku, stock in file.items()):
            return "unchanged"
        if campaign.closed:
            raise RefusedError("closed")
        rising = {sku: max(stock - lines[sku].in_file, 0) for sku, stock in file.items()}
        if any(units > self.goods[sku].free for sku, units in rising.items()):
            raise RefusedError("short")
        load = Load(campaign, campaign.file)
        campaign.file = file
        for sku, units in rising.items():
            lines[sku].in_file += units
            self.goods[sku].allocated += units
        self.dues.append(load)
        self._reach("warehouse.after_allocate")
        self._finish(load)
        return "created" if is_new else "updated"

    def top_up(self, campaign: Campaign, sku: str, units: int, key: str) -> tuple[int, bool]:
        """Give a campaign more units; returns what Redis has then, and whether they were added now."""
        if not campaign.in_redis:
            raise RefusedError("no campaign")
        if units < 1:
            raise RefusedError("number")
        known = campaign.topups.get(key)
        if known is None:
            if campaign.closed:
                raise RefusedError("closed")
            if units > self.goods[sku].free:
                raise RefusedError("short")
            known = campaign.topups[key] = TopUp(campaign, sku, units)
            campaign.lines[sku].topped_up += units
            self.goods[sku].allocated += units
            self.dues.append(known)
        elif (known.sku, known.units) != (sku, units):
            raise RefusedError("key")
        elif known.refused:
            raise RefusedError("refused before")
        self._reach("warehouse.after_allocate")
        before = known.added
        if not known.done:
            self._finish(known)
        return campaign.lines[sku].in_redis, not before

    def close(self, campaign: Campaign) -> dict[str, int]:
        """Close a campaign; returns what went back to the warehouse."""
        if not campaign.in_redis:
            raise RefusedError("no campaign")
        if campaign.closed:
            self._settle(campaign)
            raise RefusedError("closed twice")
        campaign.closed = True
        self.dues.append(Close(campaign))
        self._finish(self.dues[-1])
        return {sku: line.withdrawn for sku, line in campaign.lines.items() if line.withdrawn}

    def _finish(self, due: Load | TopUp | Close) -> None:
        """Have everyone follow; what is refused for good is undone."""
        try:
            match due:
                case Load():
                    self._finish_load(due)
                case TopUp():
                    self._finish_top_up(due)
                case Close():
                    self._settle(due.campaign)
        except RefusedError:
            self.undone[f"{type(due).__name__}: undone"] += 1
            self._end(due)
            raise
        self._end(due)

    def _end(self, due: Load | TopUp | Close) -> None:
        due.done = True
        self.dues.remove(due)

    def _finish_load(self, load: Load) -> None:
        campaign = load.campaign
        file = campaign.file
        assert file is not None
        try:
            self._ask_redis(campaign, file)
        except RefusedError:
            assert load.previous is not None
            campaign.file = load.previous
            self._lower(campaign, load.previous)
            raise
        for sku, stock in file.items():
            line = campaign.lines[sku]
            line.remaining += stock - line.file
            line.file = stock
        campaign.in_redis = True
        self._reach("warehouse.after_redis")
        self._lower(campaign, file)

    def _lower(self, campaign: Campaign, file: File) -> None:
        """Free what is allocated for a file past what it says."""
        for sku, stock in file.items():
            fell = max(campaign.lines[sku].in_file - stock, 0)
            campaign.lines[sku].in_file -= fell
            self.goods[sku].allocated -= fell

    def _finish_top_up(self, due: TopUp) -> None:
        line = due.campaign.lines[due.sku]
        if not due.added and due.campaign.closed:
            line.topped_up -= due.units
            self.goods[due.sku].allocated -= due.units
            due.refused = True
            raise RefusedError("closed")
        if not due.added:
            line.remaining += due.units
            due.added = True
        self._reach("warehouse.after_redis")

    def _settle(self, campaign: Campaign) -> None:
        for line in campaign.lines.values():
            line.given_up += line.remaining
            line.remaining = 0
        self._reach("warehouse.after_withdraw")
        for sku, line in campaign.lines.items():
            self.goods[sku].allocated -= line.given_up - line.withdrawn
            line.withdrawn = line.given_up

    # -- orders ------------------------------------------------------------------------------------------------

    def buy(self, order: Order) -> str:
        """Buy; returns what the buyer is told."""
        if order.campaign.closed:
            return "ENDED"
        if order.line.remaining < order.quantity:
            return "SOLD_OUT"
        order.line.remaining -= order.quantity
        order.line.held += order.quantity
        self.orders[order.id] = order
        return "ACCEPTED"

    def begin_payment(self, order: Order) -> None:
        """Ask where to pay."""
        if not order.payment and order.status != "confirmed":
            raise RefusedError("state")
        order.payment = order.payment or "pending"

    def charge(self, order: Order) -> None:
        """Have the provider charge a payment that was begun, and the order be paid, or the money go back."""
        order.payment = "charged"
        line = order.line
        if order.status == "confirmed" or (order.status == "expired" and line.remaining >= order.quantity):
            if order.status == "expired":
                line.remaining -= order.quantity
                line.held += order.quantity
            order.status, order.review = "paid", "waiting"
        else:
            order.status = "refunded"

    def give_up(self, order: Order, to: str) -> bool:
        """Cancel or expire an order that is not paid."""
        if order.status != "confirmed":
            return False
        order.status, order.owed = to, True
        return True

    def lifecycle(self) -> None:
        """Give Redis and buyers what they are owed."""
        for order in self.orders.values():
            if order.owed:
                order.owed = False
                order.line.held -= order.quantity
                order.line.remaining += order.quantity
                if order.status == "rejected":
                    order.status = "refunded"

    # -- outbound ----------------------------------------------------------------------------------------------

    def approve(self, orders: Sequence[Order]) -> None:
        """Approve orders, and have them leave."""
        self._decide(orders, "waiting", "approved")
        for order in orders:
            order.status = "approved"
        self._carry_out(orders)

    def reject(self, orders: Sequence[Order]) -> None:
        """Reject orders."""
        self._decide(orders, "waiting", "rejected")
        for order in orders:
            order.status, order.owed = "rejected", True

    def take_back(self, orders: Sequence[Order]) -> None:
        """Note that parcels came back, and have them taken in."""
        self._decide(orders, "shipped", "returning")
        self._carry_out(orders)

    def _decide(self, orders: Sequence[Order], needed: str, after: str) -> None:
        wrong = [order for order in orders if order.review != needed]
        if wrong:
            raise RefusedError("unpaid" if not wrong[0].review else "decided before")
        for order in orders:
            order.review = after

    def _carry_out(self, orders: Sequence[Order]) -> None:
        self.parcels += orders
        self._move_parcels(orders)

    def _move_parcels(self, orders: Sequence[Order]) -> None:
        """Have the warehouse do its part of decisions of one kind, once each, and then the orders know of it."""
        ships = bool(orders) and orders[0].review == "approved"
        for order in orders:
            self._book(order, out=ships)
        if orders:
            self._reach("warehouse.after_ship" if ships else "warehouse.after_return")
        for order in orders:
            if ships:
                order.status = order.review = "shipped"
            else:
                order.status, order.review, order.owed = "rejected", "returned", True
            self.parcels.remove(order)

    def _book(self, order: Order, *, out: bool) -> None:
        goods, units = self.goods[order.sku], order.quantity
        if order.out is out:
            return
        order.out = out
        order.line.shipped += units if out else -units
        goods.allocated -= units if out else -units
        if out:
            goods.shipped += units
        else:
            goods.returned += units

    # -- the process -------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Do a round of what `flashgate consume warehouse` does."""
        for needed in ("approved", "returning"):
            self._move_parcels([one for one in self.parcels if one.review == needed])
        for due in list(self.dues):
            with contextlib.suppress(RefusedError):
                self._finish(due)
        for _, campaign in sorted(self.campaigns.items()):
            if campaign.closed and any(line.quantity > line.shipped for line in campaign.lines.values()):
                self._settle(campaign)

    def foresee(self) -> list[str]:
        """Return the fail points that a round of it would reach, each once."""
        ahead = copy.deepcopy(self)
        ahead._reached = []
        ahead.keep()
        return sorted(set(ahead._reached))

    @property
    def unsettled(self) -> bool:
        """Whether a closed campaign has units that it may not sell any more."""
        lines = [line for campaign in self.campaigns.values() if campaign.closed for line in campaign.lines.values()]
        return any(line.remaining or line.given_up > line.withdrawn for line in lines)

    @property
    def owes(self) -> bool:
        """Whether anything is left to be done."""
        return bool(self.dues or self.parcels or any(order.owed for order in self.orders.values()))
