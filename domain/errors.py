"""Errors, grouped by who can do something about them.

A refusal (sold out, rate limited) is a result, never an exception: see `domain.outcomes`.
"""


class FlashgateError(Exception):
    """A failure that is explained to the operator in one line."""

    retryable = False
    """Whether the same call may succeed later without anything being changed."""


class ConfigError(FlashgateError):
    """A setting or a campaign file is wrong; the message names where and what to do."""


class NotRunningError(FlashgateError):
    """A server or service that the call needs is not running."""


class BackendError(FlashgateError):
    """Redis, Kafka or MySQL did not do what was asked; nothing is known to have changed."""

    retryable = True


class OutcomeUnknownError(BackendError):
    """The request was sent and the answer was lost: it may or may not have taken effect."""


class FencedError(BackendError):
    """Redis was restarted or replaced and recovery has not compared it with Kafka and MySQL yet."""


class OperationRefusedError(FlashgateError):
    """The operation is not possible as things stand; nothing was changed."""


class PoisonRecordError(FlashgateError):
    """A record that can never be processed as it is; it belongs into the dead letters."""
