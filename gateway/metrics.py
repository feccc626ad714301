"""What the gateway and the relay tell about their work (Prometheus text format). Children are looked up once."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from domain.errors import BackendError
from domain.outcomes import BUSY, Outcome

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
OUTCOMES: Final = 64
"""Places in a list that is indexed by an outcome's code, negative ones from its end."""

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_decisions = Counter("flashgate_decisions", "Orders decided, by outcome and by where", ["outcome", "decided_in"])
_checks = Counter("flashgate_redemption_checks", "Checks of redemptions, by what came of them", ["check", "outcome"])
_batch_size = Histogram("flashgate_batch_size", "Orders in one script call", buckets=_SIZES)
_redis_seconds = Histogram("flashgate_redis_call_seconds", "Duration of one admission call", buckets=_SECONDS)
_batch_failures = Counter("flashgate_batch_failures", "Batches without an answer, by error", ["error"])
_waiting = Gauge("flashgate_orders_waiting", "Orders that wait for a decision", multiprocess_mode="livesum")
_connections = Gauge("flashgate_connections", "Open connections of buyers", multiprocess_mode="livesum")
_turned_away = Counter("flashgate_connections_turned_away", "Connections closed because there were too many")
_life_calls = Counter("flashgate_life_calls", "Calls about orders after the sale, by answer", ["call", "status"])
_listeners = Gauge("flashgate_stream_listeners", "Streams of orders that are open", multiprocess_mode="livesum")
_events = Counter("flashgate_stream_events", "Events told on streams")
_outbox = Gauge(
    "flashgate_outbox_entries", "Batches not yet relayed to Kafka", ["campaign"], multiprocess_mode="mostrecent"
)
_relayed = Counter("flashgate_relayed_orders", "Orders acknowledged by Kafka")
_relay_poison = Counter("flashgate_relay_dead_letters", "Outbox entries that could not be read")
_relay_gaps = Counter("flashgate_relay_gaps", "Times that outbox entries were gone before they were relayed")
_relay_recreated = Counter("flashgate_relay_producers_recreated", "Kafka producers of the relay that were replaced")


class GatewayMetrics:
    """Counts of one worker."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, str], Counter] = {}
        self.in_memory = [0] * OUTCOMES
        """Decisions from memory since they were last told; counting in a list costs a tenth of a counter."""
        self.in_redis = [0] * OUTCOMES
        self.busy = 0
        """Turned away because too many wait."""
        self.checks: dict[tuple[str, str], int] = {}
        """(check, what came of it) → checks of redemptions since they were last told."""
        self.by_checks: dict[str, int] = {}
        """Code of a refusal → redemptions that their checks have refused since they were last told."""

    def tell(self) -> None:
        """Add what has been counted to the counters."""
        for counts, decided_in in ((self.in_memory, "memory"), (self.in_redis, "redis")):
            for outcome in Outcome:
                if counts[outcome]:
                    self._child(outcome.name, decided_in).inc(counts[outcome])
                    counts[outcome] = 0
        if self.busy:
            self._child(BUSY.code, "memory").inc(self.busy)
            self.busy = 0
        for code, count in self.by_checks.items():
            self._child(code, "checks").inc(count)
        self.by_checks.clear()
        for check_and_outcome, count in self.checks.items():
            _checks.labels(*check_and_outcome).inc(count)
        self.checks.clear()

    def checked(self, check: str, outcome: str) -> None:
        """Count what came of one check of a redemption: `campaign`, `stock` or `points`."""
        self.checks[check, outcome] = self.checks.get((check, outcome), 0) + 1

    def refused_by_checks(self, code: str) -> None:
        """Count a redemption that its checks have refused."""
        self.by_checks[code] = self.by_checks.get(code, 0) + 1

    def _child(self, outcome: str, decided_in: str) -> Counter:
        child = self._children.get((outcome, decided_in))
        if child is None:
            child = self._children[outcome, decided_in] = _decisions.labels(outcome, decided_in)
        return child

    def batch_sent(self, size: int, seconds: float) -> None:
        """Count one script call."""
        _batch_size.observe(size)
        _redis_seconds.observe(seconds)

    def batch_failed(self, size: int, error: BackendError) -> None:
        """Count a script call that came to nothing, or to nobody knows what."""
        _batch_size.observe(size)
        _batch_failures.labels(type(error).__name__).inc()

    def waiting(self, count: int) -> None:
        """Tell how many orders wait for a decision."""
        _waiting.set(count)

    def connections(self, count: int, turned_away: int) -> None:
        """Tell how many connections are open, and how many more have been turned away."""
        _connections.set(count)
        _turned_away.inc(turned_away)


class LifeMetrics:
    """Counts of one worker about orders after the sale."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, int], Counter] = {}

    def told(self, call: str, status: int) -> None:
        """Count the answer to a call: `cancel`, `payment`, `callback` or `events`."""
        child = self._children.get((call, status))
        if child is None:
            child = self._children[call, status] = _life_calls.labels(call, str(status))
        child.inc()

    def events(self, count: int) -> None:
        """Count events told."""
        _events.inc(count)

    def listeners(self, count: int) -> None:
        """Tell how many streams are open."""
        _listeners.set(count)


class RelayMetrics:
    """Counts of the relay."""

    def relayed(self, orders: int) -> None:
        """Count orders that Kafka has acknowledged."""
        _relayed.inc(orders)

    def waiting(self, campaign_id: str, entries: int) -> None:
        """Tell how many entries are in a campaign's outbox."""
        _outbox.labels(campaign_id).set(entries)

    def poison(self) -> None:
        """Count an entry that could not be read."""
        _relay_poison.inc()

    def gap(self) -> None:
        """Count a place where outbox entries are gone that were not relayed."""
        _relay_gaps.inc()

    def recreated(self) -> None:
        """Count a Kafka producer that took the place of one that had failed."""
        _relay_recreated.inc()
