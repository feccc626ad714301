"""Kafka records that never were in Kafka."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plain:
    """A record."""

    topic: str = "orders.accepted"
    partition: int = 0
    offset: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
