"""What a closed-loop driver is told and tells, whichever driver it is."""

from typing import Final

import msgspec

_BODY: Final = '{"campaign_id":"%s","sku_id":"%s","quantity":1}'


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver is to do: one order each for buyers who were never seen before.

    Attributes:
        host, port: of the target.
        campaign_id, sku_ids: what is ordered; one SKU after the other, if there are several.
        prefix: of the buyers' names and keys; another one each time.
        requests: at most.
        seconds: at most.
        connections: kept alive, each with one request on its way.
    """

    host: str
    port: int
    campaign_id: str
    sku_ids: tuple[str, ...]
    prefix: str
    requests: int
    seconds: int
    connections: int


class Driven(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an errand.

    Attributes:
        driver: its name.
        sent, answered: requests. What was sent and not answered was on its way when the driver stopped.
        up_to_399: answers with such a status; all others have a higher one.
        errors: connections that failed, and requests that timed out.
        seconds: from the first request to the last answer.
        p50_us, p99_us: of the answers.
    """

    driver: str
    sent: int
    answered: int
    up_to_399: int
    errors: int
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    @property
    def unanswered(self) -> int:
        """Requests whose answer nobody waited for."""
        return self.sent - self.answered


def body(campaign_id: str, sku_id: str) -> str:
    """Return the body of an order; the ids need no escaping."""
    return _BODY % (campaign_id, sku_id)
