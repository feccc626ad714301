"""What the driver of sagas counts, and how Prometheus sees it."""

from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from domain.saga import SagaStatus, SagaStep

_PREFIX: Final = "flashgate_saga"


class SagaMetrics(Protocol):
    """What the driver reports as it works."""

    def ended(self, status: SagaStatus, count: int) -> None:
        """So many sagas ended in a direction: `confirmed` whole, `compensating` compensated."""

    def parked(self) -> None:
        """A saga was left to people."""

    def step_failed(self, step: SagaStep) -> None:
        """A step of one or more sagas failed and is tried again, or its saga is parked."""

    def open(self, under_way: int, parked: int) -> None:
        """So many sagas have not ended, in all."""


class PrometheusSagaMetrics:
    """Implements `SagaMetrics`.

    Args:
        registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(f"{_PREFIX}_ended", "Sagas that have ended, by direction", ["status"], registry=registry)
        self._parked = Counter(f"{_PREFIX}_parked", "Sagas that were left to people", registry=registry)
        self._failed = Counter(f"{_PREFIX}_step_failures", "Steps that failed, by step", ["step"], registry=registry)

        def gauge(what: str, text: str) -> Gauge:
            return Gauge(f"{_PREFIX}_{what}", text, registry=registry, multiprocess_mode="mostrecent")

        self._under_way = gauge("under_way", "Sagas that have not ended and are not parked")
        self._waiting = gauge("parked_now", "Sagas that wait for people")

    def ended(self, status: SagaStatus, count: int) -> None:
        """See the protocol."""
        if count:
            self._ended.labels(str(status)).inc(count)

    def parked(self) -> None:
        """See the protocol."""
        self._parked.inc()

    def step_failed(self, step: SagaStep) -> None:
        """See the protocol."""
        self._failed.labels(str(step)).inc()

    def open(self, under_way: int, parked: int) -> None:
        """See the protocol."""
        self._under_way.set(under_way)
        self._waiting.set(parked)
