"""Switches for the way in: framing, limits and deadlines of connections, and the decoder of bodies."""

import asyncio
from typing import Any

from tests.support.hooks import replace


def deadlines_kept() -> None:
    """A connection may take as long as it likes."""
    from gateway.fast_lane import Connection

    def wait(_self: Connection, _now_s: float) -> None:
        return

    replace(Connection, "check_deadline", wait)


def connections_bounded() -> None:
    """Everybody is let in."""
    from gateway.door import Door
    from gateway.fast_lane import Connection

    def welcome(self: Door, connection: Connection) -> None:
        self._connections.add(connection)

    replace(Door, "take_in", welcome)


def bodies_bounded() -> None:
    """A body may have any size."""
    from gateway.answers import Answer
    from gateway.request_head import HeadLimits, RequestHead

    read = RequestHead.read

    def generous(self: RequestHead, head: bytes, limits: HeadLimits) -> Answer | None:
        return read(self, head, limits._replace(body_bytes_max=1 << 62))

    replace(RequestHead, "read", generous)


def heads_bounded() -> None:
    """A head may have any size."""
    from gateway import request_head

    def small_enough(_size: int, _line: int, _limits: request_head.HeadLimits) -> None:
        return

    replace(request_head, "_too_large", small_enough)


def chunks_bounded() -> None:
    """All is read that comes with a chunked body."""
    from gateway.door import Door

    begin = Door.__init__

    def generous(self: Door, *args: Any) -> None:
        begin(self, *args)
        self.passed_bytes_max = 1 << 62

    replace(Door, "__init__", generous)


def lingering_close() -> None:
    """A connection is closed as soon as its last answer is written."""
    from gateway.fast_lane import Connection

    def at_once(self: Connection) -> None:
        if isinstance(self._transport, asyncio.Transport):
            self._transport.close()

    replace(Connection, "_linger", at_once)


def compressed_bodies_refused() -> None:
    """What a body is said to be compressed with is not looked at."""
    from gateway import request_head

    replace(request_head, "_FIELDS", {**request_head._FIELDS, b"content-encoding": request_head.OTHER})


def strict_decoder() -> None:
    """Bodies are decoded by the standard library, which takes more than JSON, and turned into whole numbers."""
    import json

    from gateway import requests

    def lax(body: bytes) -> requests.PlaceOrder:
        try:
            found = json.loads(body)
            return requests.PlaceOrder(found["campaign_id"], found["sku_id"], int(found["quantity"]))
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise requests.InvalidRequestError(str(error)) from None

    replace(requests, "decode_place_order", lax)


def duplicate_names_refused() -> None:
    """Of two names that are the same the last one counts."""
    from gateway import requests

    decode = requests._decode

    def lax(decoder: Any, body: bytes, _names: int) -> Any:
        return decode(decoder, body, body.count(b":"))

    replace(requests, "_decode", lax)


def strict_framing() -> None:
    """The parser of heads takes what is nearly HTTP."""
    from gateway.request_head import RequestHead

    begin = RequestHead.__init__

    def lenient(self: RequestHead) -> None:
        begin(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_chunked_length=True, lenient_transfer_encoding=True, lenient_version=True
        )

    replace(RequestHead, "__init__", lenient)


def repeated_headers_refused() -> None:
    """Of two headers that should be one the last counts."""
    from gateway import request_head

    replace(request_head, "REPEATED", 0)


def chunks_end_their_connection() -> None:
    """Behind a chunked request aiohttp reads the next one, by its own idea of where that begins."""
    from gateway.aiohttp_lane import Done, LentHandler
    from gateway.door import Door

    lend = Door.lend

    def go_on(self: Door, _done: Done, *, last: bool) -> LentHandler:
        return lend(self, lambda _handler, _usable: None, last=False)

    replace(Door, "lend", go_on)


SWITCHES = {
    switch.__name__: switch
    for switch in (
        deadlines_kept,
        connections_bounded,
        bodies_bounded,
        heads_bounded,
        chunks_bounded,
        lingering_close,
        compressed_bodies_refused,
        strict_decoder,
        duplicate_names_refused,
        strict_framing,
        repeated_headers_refused,
        chunks_end_their_connection,
    )
}
