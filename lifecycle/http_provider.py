"""The payment provider over HTTP: signed calls, bounded in time, number and size. See `lifecycle.provider_wire`."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn, TypeVar

import aiohttp
import msgspec
from yarl import URL

from domain.errors import BackendError, ConfigError, OutcomeUnknownError
from domain.settings import PaymentSettings
from lifecycle.callback import SIGNATURE_HEADER, sign
from lifecycle.provider import Created, ProviderRefusedError, ProviderState
from lifecycle.provider_wire import (
    BODY_BYTES_MAX,
    CODE_CONFLICT,
    CODE_NOT_FOUND,
    CreateBody,
    PaymentSaid,
    RefundBody,
    RefusalSaid,
    what_is_signed,
)

T = TypeVar("T", bound=msgspec.Struct)

KEEPALIVE_S: Final = 10.0
"""Shorter than servers keep idle connections, so that they seldom close one that is being used again."""
_NOT_TAKEN: Final = frozenset({401, 403, 429})
"""Refusals that are about us, not about the payment: the same call may be taken later."""

_said: Final = msgspec.json.Decoder(PaymentSaid)
_refusal: Final = msgspec.json.Decoder(RefusalSaid)


class _Answer(NamedTuple):
    status: int
    body: bytes


class HttpProvider:
    """A `PaymentProvider`. Connections are made when first used; one instance belongs to one event loop."""

    def __init__(self, settings: PaymentSettings, key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        """Take the settings and the shared secret.

        Args:
            settings: where the provider is, and the bounds of a call.
            key: the secret; see `lifecycle.payment_key`.
            clock: Unix seconds.

        Raises:
            ConfigError: `payment.provider_url` is no URL of HTTP.
        """
        self._url = _base_url(settings.provider_url)
        self._settings = settings
        self._key = key
        self._clock = clock
        self._inflight = 0
        self._session: aiohttp.ClientSession | None = None

    async def create(self, payment_id: str, order_id: str, amount_cents: int) -> Created:
        """Create a payment: `PaymentProvider.create`."""
        body = msgspec.json.encode(CreateBody(payment_id, order_id, amount_cents))
        answer = await self._call("POST", self._url / "payments", body)
        refusal = _refusal_in(answer)
        if refusal is not None:
            if refusal.code == CODE_CONFLICT:
                # There is a payment of this id; whether it is charged is not said.
                raise OutcomeUnknownError(f"payment provider: {refusal.message}")
            _raise_refusal(answer.status, refusal)
        said = _payment_in(answer, payment_id)
        if (said.order_id, said.amount_cents) != (order_id, amount_cents):
            raise _nonsense("of another order or amount")
        return Created(said.state, said.pay_url)

    async def find(self, payment_id: str, order_id: str, amount_cents: int) -> ProviderState:
        """Return where a payment stands: `PaymentProvider.find`."""
        answer = await self._call("GET", self._url / "payments" / payment_id, b"")
        refusal = _refusal_in(answer)
        if refusal is not None:
            # A 404 of some other server in between has no such code.
            if answer.status == 404 and refusal.code == CODE_NOT_FOUND:
                return ProviderState.ABSENT
            _raise_refusal(answer.status, refusal)
        said = _payment_in(answer, payment_id)
        if (said.order_id, said.amount_cents) != (order_id, amount_cents):
            raise _nonsense("of another order or amount")
        return said.state

    async def refund(self, payment_id: str, amount_cents: int) -> ProviderState:
        """Give a payment's money back: `PaymentProvider.refund`."""
        body = msgspec.json.encode(RefundBody(payment_id, amount_cents))
        answer = await self._call("POST", self._url / "payments" / payment_id / "refunds", body)
        refusal = _refusal_in(answer)
        if refusal is not None:
            _raise_refusal(answer.status, refusal)
        said = _payment_in(answer, payment_id)
        if said.amount_cents != amount_cents:
            raise _nonsense("of another amount")
        if said.state not in {ProviderState.REFUNDED, ProviderState.APPROVED}:
            raise _nonsense(f"that a refunded payment is {said.state.value}")
        return said.state

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(self, method: str, url: URL, body: bytes) -> _Answer:
        """Make one call; it is never repeated here.

        Raises:
            BackendError: it was certainly not sent.
            OutcomeUnknownError: its answer is lost, too long, a redirect, a 408 or a 5xx.
        """
        if self._is_busy():
            raise BackendError(f"payment provider: {self._settings.inflight_max} calls are under way")
        self._inflight += 1
        try:
            answer = await self._send(method, url, body)
        # The order matters: what failed to connect is also one of the errors below.
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise BackendError(f"payment provider: {error}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise OutcomeUnknownError(f"payment provider: {type(error).__name__} {error}".rstrip()) from None
        finally:
            self._inflight -= 1
        if not (200 <= answer.status < 300 or 400 <= answer.status < 500) or answer.status == 408:
            raise OutcomeUnknownError(f"payment provider: answered with status {answer.status}")
        return answer

    def _is_busy(self) -> bool:
        return self._inflight >= self._settings.inflight_max

    async def _send(self, method: str, url: URL, body: bytes) -> _Answer:
        signed = what_is_signed(method, url.raw_path_qs, body)
        headers = {
            SIGNATURE_HEADER: sign(signed, self._key, int(self._clock())),
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
        }
        async with self._opened().request(
            method, url, data=body or None, headers=headers, allow_redirects=False
        ) as answer:
            taken = bytearray()
            async for piece in answer.content.iter_any():
                taken += piece
                if len(taken) > BODY_BYTES_MAX:
                    raise _nonsense(f"of more than {BODY_BYTES_MAX} bytes")
            return _Answer(answer.status, bytes(taken))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings = self._settings
            self._session = aiohttp.ClientSession(
                # Half of it for connecting, so that who cannot be reached is told from who does not answer.
                timeout=aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=settings.timeout_s / 2),
                connector=aiohttp.TCPConnector(limit=settings.inflight_max, keepalive_timeout=KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


def _base_url(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host or url.query_string or url.fragment:
        raise ConfigError("payment.provider_url: must be http://host[:port][/path] or https://…")
    return url


def _nonsense(what: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(f"payment provider: its answer makes no sense: {what}")


def _decoded(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _nonsense(str(error)) from None


def _refusal_in(answer: _Answer) -> RefusalSaid | None:
    """Return the refusal, None if it is none.

    Raises:
        OutcomeUnknownError: a 4xx that is no well-formed refusal.
    """
    return _decoded(_refusal, answer.body) if answer.status >= 400 else None


def _raise_refusal(status: int, refusal: RefusalSaid) -> NoReturn:
    message = f"payment provider: refused: {refusal.code}: {refusal.message}"
    raise BackendError(message) if status in _NOT_TAKEN else ProviderRefusedError(message)


def _payment_in(answer: _Answer, payment_id: str) -> PaymentSaid:
    """Return the payment that is told of.

    Raises:
        OutcomeUnknownError: it is none, or another one.
    """
    said = _decoded(_said, answer.body)
    if said.payment_id != payment_id:
        raise _nonsense("of another payment")
    return said
