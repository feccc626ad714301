"""What the keeper counts, as Prometheus sees it."""

from prometheus_client import CollectorRegistry, Counter


class PrometheusKeeperMetrics:
    """Implements `lifecycle.keeper.KeeperMetrics`.

    Args:
        registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"flashgate_lifecycle_{name}", text, ["work"], registry=registry)

        self._done = counter("done", "Pieces of work done: expire, return, publish, check, reacquire, refund")
        self._put_off = counter("put_off", "Pieces of work that failed and are tried later")
        self._failures = counter("failures", "Rounds given up because a server was away")

    def done(self, work: str, count: int) -> None:
        """See the protocol."""
        if count:
            self._done.labels(work).inc(count)

    def put_off(self, work: str) -> None:
        """See the protocol."""
        self._put_off.labels(work).inc()

    def failed(self, work: str) -> None:
        """See the protocol."""
        self._failures.labels(work).inc()
