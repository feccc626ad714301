"""The buyer plane as an aiohttp application: every route, the hot ones by the same functions as in the fast lane."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from domain import outcomes
from domain.settings import GatewaySettings
from gateway.aiohttp_lane import EventStream
from gateway.answers import BODY_LATE, UNKNOWN_NOW, Answer, body_too_large, problem
from gateway.calls import BuyerCalls
from gateway.docs_page import docs_html
from gateway.life_calls import LifeCalls
from gateway.openapi import document_json
from gateway.orders import Promise
from gateway.points import PointsDesk
from lifecycle.callback import SIGNATURE_HEADER

log = logging.getLogger(__name__)

Ready = Callable[[], Awaitable[dict[str, str]]]
"""What is missing: part → why; empty when everything is there."""

Change = Callable[[bytes | None, bytes | None, str, bytes], Awaitable[Answer]]
"""Authorization, Idempotency-Key, order id, body → the answer."""

HTML: Final = "text/html"


class BuyerPlane:
    """The handlers of one worker."""

    def __init__(
        self, settings: GatewaySettings, calls: BuyerCalls, life: LifeCalls, points: PointsDesk, *, missing: Ready
    ) -> None:
        self._settings = settings
        self._calls = calls
        self._life = life
        self._points = points
        self._missing = missing

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=self._settings.body_bytes_max, middlewares=[problems])
        app.add_routes(
            [
                web.post("/v1/orders", self.place),
                web.post("/v1/draws", self.place),
                web.post("/v1/redemptions", self.place),
                web.get("/v1/orders/{id}", self.get_order, allow_head=False),
                web.get("/v1/orders/{id}/events", self.order_events, allow_head=False),
                web.post("/v1/orders/{id}/payment", self.pay_order),
                web.post("/v1/orders/{id}/cancel", self.cancel_order),
                web.post("/v1/webhooks/payment", self.payment_callback),
                web.get("/v1/points", self.get_points, allow_head=False),
                web.get("/v1/campaigns/{id}", self.get_campaign, allow_head=False),
                web.get("/livez", self.livez),
                web.get("/readyz", self.readyz),
                web.get("/openapi.json", self.openapi_json),
                web.get("/docs", self.docs),
            ]
        )
        app.on_response_prepare.append(_say_nothing_of_the_server)
        return app

    async def place(self, request: web.Request) -> web.Response:
        """`POST /v1/orders`, `/v1/draws` and `/v1/redemptions`."""
        body = await self._body(request)
        if isinstance(body, Answer):
            return as_response(body)
        authorization, key = _header(request, "Authorization"), _header(request, "Idempotency-Key")
        place = self._calls.posts[request.path.encode()]
        return await _answered(lambda promise: place(authorization, key, body, promise))

    async def get_order(self, request: web.Request) -> web.Response:
        """`GET /v1/orders/{id}`."""
        authorization, order_id = _header(request, "Authorization"), request.match_info["id"]
        return await _answered(lambda promise: self._calls.get_order(authorization, order_id, promise))

    async def order_events(self, request: web.Request) -> web.Response:
        """`GET /v1/orders/{id}/events`."""
        authorization, last_event_id = _header(request, "Authorization"), _header(request, "Last-Event-ID")
        opened = await self._life.listen(authorization, request.match_info["id"], last_event_id)
        return as_response(opened) if isinstance(opened, Answer) else EventStream(opened)

    async def pay_order(self, request: web.Request) -> web.Response:
        """`POST /v1/orders/{id}/payment`."""
        return await self._change(request, self._life.pay)

    async def cancel_order(self, request: web.Request) -> web.Response:
        """`POST /v1/orders/{id}/cancel`."""
        return await self._change(request, self._life.cancel)

    async def payment_callback(self, request: web.Request) -> web.Response:
        """`POST /v1/webhooks/payment`."""
        body = await self._body(request)
        if isinstance(body, Answer):
            return as_response(body)
        return as_response(await self._life.callback(request.headers.get(SIGNATURE_HEADER), body))

    async def get_points(self, request: web.Request) -> web.Response:
        """`GET /v1/points`."""
        return as_response(await self._points.get(_header(request, "Authorization")))

    async def get_campaign(self, request: web.Request) -> web.Response:
        """`GET /v1/campaigns/{id}`."""
        return as_response(self._calls.get_campaign(request.match_info["id"]))

    async def livez(self, _request: web.Request) -> web.Response:
        """`GET /livez`: the process answers."""
        return as_response(Answer(200, b'{"status":"ok"}'))

    async def readyz(self, _request: web.Request) -> web.Response:
        """`GET /readyz`: everything that an order needs is there, or which part is missing."""
        missing = await self._missing()
        if missing:
            return as_response(Answer(503, orjson.dumps({"status": "unavailable", "missing": missing})))
        return as_response(Answer(200, b'{"status":"ok","missing":{}}'))

    async def openapi_json(self, _request: web.Request) -> web.Response:
        """`GET /openapi.json`."""
        return as_response(Answer(200, document_json()))

    async def docs(self, _request: web.Request) -> web.Response:
        """`GET /docs`."""
        return as_response(Answer(200, docs_html(), HTML))

    async def _change(self, request: web.Request, call: Change) -> web.Response:
        """Make a call that changes an order."""
        body = await self._body(request)
        if isinstance(body, Answer):
            return as_response(body)
        authorization, key = _header(request, "Authorization"), _header(request, "Idempotency-Key")
        return as_response(await call(authorization, key, request.match_info["id"], body))

    async def _body(self, request: web.Request) -> bytes | Answer:
        """Read a body; one of announced length is here already, a chunked one has its bounds of size and time."""
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            return body_too_large(self._settings.body_bytes_max)
        except (TimeoutError, ConnectionError):  # late, or the buyer has gone away in the middle
            return BODY_LATE


def _header(request: web.Request, name: str) -> bytes | None:
    """Return a header's value as it came."""
    value = request.headers.get(name)
    return None if value is None else value.encode("utf-8", "surrogateescape")


async def _answered(call: Callable[[Promise], Answer | None]) -> web.Response:
    """Make one of the hot calls and wait for its answer."""
    told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def then(answer: Answer) -> None:
        if not told.done():  # a buyer who has gone away is no error
            told.set_result(answer)

    answer = call(lambda: then)
    return as_response(answer if answer is not None else await told)


def as_response(answer: Answer) -> web.Response:
    """Return an answer as aiohttp sends it."""
    headers = dict(answer.headers)
    if answer.status != 204:
        headers["Content-Type"] = answer.content_type
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.closes:
        response.force_close()
    return response


async def _say_nothing_of_the_server(_request: web.Request, response: web.StreamResponse) -> None:
    """Leave out which versions run here; the fast lane does not tell either."""
    response.headers.popall("Server", None)


_HTTP_PROBLEMS: Final = {
    404: problem(outcomes.NOT_FOUND),
    413: problem(outcomes.TOO_LARGE, closes=True),
}


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn aiohttp's own errors, and ours that nobody foresaw, into problem documents."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return as_response(problem(outcomes.METHOD_NOT_ALLOWED, f"allowed here: {allowed}", (("Allow", allowed),)))
    except web.HTTPException as error:
        known = _HTTP_PROBLEMS.get(error.status)
        return as_response(known or problem(outcomes.INVALID._replace(status=error.status), error.reason))
    except Exception:
        log.exception("unforeseen error at %s %s", request.method, request.path)
        return as_response(UNKNOWN_NOW)
