"""What the warehouse process counts, as Prometheus sees it."""

from typing import Final

from prometheus_client import CollectorRegistry

from lifecycle.metrics import PrometheusKeeperMetrics

WORKS: Final = "ship, cancel, return, review, finish, settle"


def warehouse_metrics(registry: CollectorRegistry) -> PrometheusKeeperMetrics:
    """Return the counters `flashgate_warehouse_…`, registered there."""
    return PrometheusKeeperMetrics(registry, "warehouse", WORKS)
