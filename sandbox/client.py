"""Telling a running sandbox provider how to behave, and paying there as a buyer does."""

import time
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from domain.errors import BackendError, NotRunningError, OperationRefusedError
from lifecycle.callback import SIGNATURE_HEADER, sign
from lifecycle.provider import ProviderState
from lifecycle.provider_wire import RefusalSaid, what_is_signed
from sandbox.rules import Mode, Told

TIMEOUT_S: Final = 10.0


class _Paid(msgspec.Struct, frozen=True):
    state: ProviderState


async def tell(
    url: str,
    key: bytes,
    mode: Mode,
    *,
    payment_id: str | None = None,
    order_id: str | None = None,
    delay_s: float = 0.0,
    callback: bool = False,
) -> None:
    """Tell a sandbox how to behave: about one payment, one order's, or all that are new from now on.

    Args:
        url: where it is.
        key: the secret of its signatures.
        mode: see there, as for the others.
        payment_id: if it is about one payment.
        order_id: if it is about one order.
        delay_s: how late callbacks come.
        callback: for mode `charge_then_timeout`: whether a callback tells.

    Raises:
        NotRunningError: there is no sandbox.
        OperationRefusedError: it refuses, and says why.
        BackendError: its answer was lost.
    """
    told = Told(mode=mode, payment_id=payment_id, order_id=order_id, delay_s=delay_s, callback=callback)
    await _call("PUT", URL(url) / "behaviour", msgspec.json.encode(told), key)


async def reset(url: str, key: bytes) -> None:
    """Make a sandbox forget what it was told; raises as `tell`."""
    await _call("DELETE", URL(url) / "behaviour", b"", key)


async def pay(url: str, payment_id: str, *, approve: bool = True) -> ProviderState:
    """Pay or decline as the buyer does at the pay_url; returns the payment's state, raises as `tell`."""
    body = msgspec.json.encode({"decision": "approve" if approve else "decline"})
    answer = await _call("POST", URL(url) / "pay" / payment_id, body, None)
    return msgspec.json.decode(answer, type=_Paid).state


async def _call(method: str, url: URL, body: bytes, key: bytes | None) -> bytes:
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers[SIGNATURE_HEADER] = sign(what_is_signed(method, url.raw_path_qs, body), key, int(time.time()))
    options: dict[str, Any] = {"data": body or None, "headers": headers, "allow_redirects": False}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, **options) as answer,
        ):
            status, said = answer.status, await answer.read()
    except aiohttp.ClientConnectorError:
        raise NotRunningError(f"no payment sandbox is running at {url.origin()}") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BackendError(f"payment sandbox: {type(error).__name__} {error}".rstrip()) from None
    if status >= 300:
        raise OperationRefusedError(f"the payment sandbox refuses: {_why(status, said)}")
    return said


def _why(status: int, said: bytes) -> str:
    try:
        return msgspec.json.decode(said, type=RefusalSaid).message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return f"status {status}"
