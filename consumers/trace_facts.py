"""What the stores know of one order, as plain values. Times are Unix milliseconds."""

from typing import Final

import msgspec

from consumers.saga_facts import PointsFacts, SagaFacts, StepFacts

HELD_WORDS: Final = {0: "released", 1: "held", 2: "paid"}
"""State of an attempt in a buyer's record → what it is called."""


class EventFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its event, or its row, tells of it."""

    user_id: str
    sku_id: str
    quantity: int
    hold_no: int
    accepted_at_ms: int
    outbox_id: str
    """`0-0`: made anew, because its outbox entry was lost."""
    outbox_index: int


class RedisFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The order in its buyer's record."""

    user_id: str
    sku_id: str
    quantity: int
    hold_no: int
    state: str
    """`held`, `paid` or `released`."""
    gate_open: bool
    """False: Redis was restarted, and recovery has not looked yet what it has lost."""


class OutboxFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The order in the outbox of its campaign."""

    outbox_id: str
    outbox_index: int
    checkpoint: str
    """All entries up to it are in Kafka."""
    waiting: bool
    """The entry is still there."""
    relayed: bool
    """The checkpoint has passed it."""


class DrawFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A draw that won, as its record tells."""

    sku_id: str
    points: int
    """What the prize is worth."""
    seq: int
    """Its line in the lottery's log."""
    hash: str
    """Of the log's entry with that line."""


class KafkaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the order: accepted, redeemed, won or awarded."""

    topic: str = ""
    partition: int
    offset: int
    at_ms: int
    outbox_id: str
    outbox_index: int
    consumed: bool | None
    """Whether the consumers have committed it; None: not known."""


class LetterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter of the order."""

    id: str
    at_ms: int
    reason: str
    error: str
    action: str
    """`replayed` or `dropped`; empty: it is open."""
    action_at_ms: int | None


class RowFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The order's row in MySQL."""

    status: str
    version: int
    campaign_id: str
    sku_id: str
    user_id: str
    quantity: int
    unit_price_cents: int
    hold_no: int
    outbox_id: str
    outbox_index: int
    accepted_at_ms: int
    confirmed_at_ms: int
    pay_by_ms: int | None


class LedgerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the stock ledger."""

    hold_no: int
    kind: str
    sku_id: str
    quantity: int
    outbox_id: str
    outbox_index: int
    at_ms: int


class ChangeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A state that the order came to after it was confirmed."""

    version: int
    status: str
    reason: str
    at_ms: int
    published: bool


class PaymentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A payment for the order."""

    payment_id: str
    attempt_no: int
    amount_cents: int
    points: int = 0
    """What a redemption was paid with; 0: money."""
    status: str
    hold_no: int
    created_at_ms: int
    updated_at_ms: int
    next_at_ms: int
    attempts: int
    error: str


class ReviewFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The outbound review of the order, which is opened when it is paid."""

    status: str
    who: str
    """Who decided last; empty: nobody yet."""
    why: str
    opened_at_ms: int
    decided_at_ms: int | None


class ParcelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the warehouse had, or has, to do for the order."""

    kind: str
    """`ship`, `cancel` or `return`."""
    who: str
    why: str
    created_at_ms: int
    attempts: int
    error: str
    done_at_ms: int | None


class ReturnFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Units that Redis had, or has, to get back."""

    hold_no: int
    origin: str
    """Empty: the release of a hold. Else the outbox entry and place of a second deduction."""
    quantity: int
    created_at_ms: int
    attempts: int
    error: str
    done_at_ms: int | None


class Story(msgspec.Struct, kw_only=True):
    """All that was found out about an order."""

    order_id: str
    now_ms: int
    kind: str = ""
    """Of the campaign, as Redis says; empty if it does not."""
    event: EventFacts | None = None
    """From wherever it was found first."""
    redis: RedisFacts | None = None
    outbox: OutboxFacts | None = None
    kafka: list[KafkaFacts] = []
    dead_letters: list[LetterFacts] = []
    mysql: RowFacts | None = None
    ledger: list[LedgerFacts] = []
    changes: list[ChangeFacts] = []
    payments: list[PaymentFacts] = []
    review: ReviewFacts | None = None
    parcels: list[ParcelFacts] = []
    returns: list[ReturnFacts] = []
    draw: DrawFacts | None = None
    saga: SagaFacts | None = None
    steps: list[StepFacts] = []
    """Guards of the saga's steps, of both schemas."""
    points: list[PointsFacts] = []
    """Rows of the points' ledger."""
    away: dict[str, str] = {}
    """Store → why it could not be asked."""
    notes: list[str] = []
    """What could not be found out, and why."""

    @property
    def is_known(self) -> bool:
        """Whether any store knows the order."""
        known = (self.redis, self.kafka, self.dead_letters, self.mysql, self.ledger, self.event, self.saga, self.points)
        return any(known)
