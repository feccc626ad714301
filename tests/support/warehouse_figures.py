"""Figures that the warehouse's model keeps: of SKUs, of campaigns and of orders, in the catalog and in Redis."""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Goods:
    """A SKU in all warehouses together."""

    received: dict[str, int] = field(default_factory=dict)
    """By warehouse."""
    shipped: int = 0
    returned: int = 0
    allocated: int = 0
    reserved: int = 0

    @property
    def on_hand(self) -> int:
        """What lies there."""
        return sum(self.received.values()) - self.shipped + self.returned

    @property
    def free(self) -> int:
        """What nobody has been given."""
        return self.on_hand - self.allocated - self.reserved


@dataclass(eq=False)
class Line:
    """A SKU in a campaign: the catalog's numbers, and Redis's."""

    in_file: int = 0
    topped_up: int = 0
    withdrawn: int = 0
    shipped: int = 0
    file: int = 0
    """The stock in the file, as Redis has seen it."""
    remaining: int = 0
    held: int = 0
    given_up: int = 0
    """Withdrawn by Redis since the close, all in all."""

    @property
    def quantity(self) -> int:
        """What the catalog has allocated."""
        return self.in_file + self.topped_up - self.withdrawn

    @property
    def in_redis(self) -> int:
        """What Redis has allocated."""
        return self.remaining + self.held


File = dict[str, int]
"""SKU → stock."""


@dataclass(eq=False)
class Load:
    """A load, until everyone has followed."""

    campaign: "Campaign"
    previous: File | None
    done: bool = False


@dataclass(eq=False)
class TopUp:
    """A top-up, for good: its key is remembered."""

    campaign: "Campaign"
    sku: str
    units: int
    added: bool = False
    refused: bool = False
    done: bool = False


@dataclass(eq=False)
class Close:
    """A close, until what was unsold at that time is free."""

    campaign: "Campaign"
    done: bool = False


@dataclass(eq=False)
class Campaign:
    """A campaign."""

    id: str
    lines: dict[str, Line]
    file: File | None = None
    in_redis: bool = False
    closed: bool = False
    topups: dict[str, TopUp] = field(default_factory=dict)


@dataclass(eq=False)
class Order:
    """An accepted order."""

    id: str
    campaign: Campaign
    sku: str
    quantity: int
    status: str = "confirmed"
    review: str = ""
    payment: str = ""
    """Empty, `pending`, or `charged`."""
    out: bool = False
    """Its units have left the house."""
    owed: bool = False
    """Redis is owed its units, and its buyer the money if it was paid."""

    @property
    def line(self) -> Line:
        """Where its units are counted."""
        return self.campaign.lines[self.sku]
