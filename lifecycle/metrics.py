"""What the keeper counts, as Prometheus sees it."""

from prometheus_client import CollectorRegistry, Counter


class PrometheusKeeperMetrics:
    """Implements `adapters.rounds.RoundsMetrics`.

    Args:
        registry: where the metrics are registered.
        process: whose they are; names are `flashgate_<process>_…`.
        works: the kinds of work that there are, for the description.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        process: str = "lifecycle",
        works: str = "expire, return, publish, mark, refund_points, check, reacquire, refund",
    ) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"flashgate_{process}_{name}", text, ["work"], registry=registry)

        self._done = counter("done", f"Pieces of work done: {works}")
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
