"""A record on its way from the relay to Kafka."""

from typing import NamedTuple


class Outgoing(NamedTuple):
    """A record for Kafka."""

    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()
