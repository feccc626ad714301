"""Switches for the payment provider's adapter and for the signatures of callbacks."""

from collections.abc import Callable
from typing import Final

from tests.support.hooks import replace


def signatures_compared() -> None:
    """Any signature is right."""
    from lifecycle import callback

    def right(_right: str, _signatures: list[str]) -> bool:
        return True

    replace(callback, "_is_among", right)


def signatures_fresh() -> None:
    """A signature may be of any age."""
    from lifecycle import callback

    def fresh(_told_s: int, _now_s: float, _age_max_s: int) -> bool:
        return True

    replace(callback, "_is_fresh", fresh)


def lost_answers_unknown() -> None:
    """A call whose answer is lost counts as refused."""
    from lifecycle import http_provider
    from lifecycle.provider import ProviderRefusedError

    replace(http_provider, "OutcomeUnknownError", ProviderRefusedError)


def provider_calls_bounded() -> None:
    """Any number of calls to the provider may be under way."""
    from lifecycle.http_provider import HttpProvider

    def never(_self: HttpProvider) -> bool:
        return False

    replace(HttpProvider, "_is_busy", never)


def provider_answers_bounded() -> None:
    """The provider's answers may have any size."""
    from lifecycle import http_provider

    replace(http_provider, "BODY_BYTES_MAX", 1 << 62)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "signatures_compared": signatures_compared,
    "signatures_fresh": signatures_fresh,
    "lost_answers_unknown": lost_answers_unknown,
    "provider_calls_bounded": provider_calls_bounded,
    "provider_answers_bounded": provider_answers_bounded,
}
