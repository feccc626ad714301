"""What can go wrong with a measurement."""

from domain.errors import FlashgateError


class BenchError(FlashgateError):
    """A measurement cannot be made, or must not be believed; the message says why and what to do."""
