"""The buyer plane over aiohttp: routes, and the edge between requests and the functions that answer them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import orjson
from aiohttp import web

from domain import outcomes
from domain.settings import GatewaySettings
from gateway.answers import JSON, Answer, problem
from gateway.campaigns import Campaigns
from gateway.openapi import docs_html, document_json
from gateway.order_status import FindAttempts, FindRow, order_status
from gateway.orders import OrderDesk, no_campaign
from gateway.view import CampaignView, sku_state

log = logging.getLogger(__name__)

Ready = Callable[[], Awaitable[dict[str, str]]]
"""What is missing: part → why; empty when everything is there."""

HTML: Final = "text/html"


class BuyerPlane:
    """The handlers of one worker."""

    def __init__(
        self,
        settings: GatewaySettings,
        desk: OrderDesk,
        campaigns: Campaigns,
        *,
        find_row: FindRow,
        find_attempts: FindAttempts,
        missing: Ready,
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._campaigns = campaigns
        self._find_row = find_row
        self._find_attempts = find_attempts
        self._missing = missing

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=self._settings.body_bytes_max, middlewares=[_problems])
        app.add_routes(
            [
                web.post("/v1/orders", self.place_order),
                web.get("/v1/orders/{id}", self.get_order, allow_head=False),
                web.get("/v1/campaigns/{id}", self.get_campaign, allow_head=False),
                web.get("/livez", self.livez),
                web.get("/readyz", self.readyz),
                web.get("/openapi.json", self.openapi_json),
                web.get("/docs", self.docs),
            ]
        )
        return app

    async def place_order(self, request: web.Request) -> web.Response:
        """`POST /v1/orders`."""
        body = await self._body(request)
        if isinstance(body, Answer):
            return _response(body)
        pending = self._desk.place(request.headers.get("Authorization"), request.headers.get("Idempotency-Key"), body)
        if isinstance(pending, Answer):
            return _response(pending)
        return _response(self._desk.answer(pending, await pending.decision))

    async def get_order(self, request: web.Request) -> web.Response:
        """`GET /v1/orders/{id}`."""
        buyer = self._desk.identify(request.headers.get("Authorization"))
        if isinstance(buyer, Answer):
            return _response(buyer)
        order_id = request.match_info["id"]
        return _response(await order_status(order_id, buyer.user_id, self._find_row, self._find_attempts))

    async def get_campaign(self, request: web.Request) -> web.Response:
        """`GET /v1/campaigns/{id}`."""
        view = self._campaigns.views.get(request.match_info["id"])
        now_s = time.monotonic()
        if view is None:
            return _response(no_campaign(self._campaigns, request.match_info["id"], now_s))
        if not view.is_fresh(now_s):
            return _response(problem(outcomes.BUSY, headers=(("Retry-After", "1"),)))
        return _response(campaign_answer(view, now_s))

    async def livez(self, _request: web.Request) -> web.Response:
        """`GET /livez`: the process answers."""
        return _response(Answer(200, b'{"status":"ok"}'))

    async def readyz(self, _request: web.Request) -> web.Response:
        """`GET /readyz`: everything that an order needs is there, or which part is missing."""
        missing = await self._missing()
        if missing:
            return _response(Answer(503, orjson.dumps({"status": "unavailable", "missing": missing})))
        return _response(Answer(200, b'{"status":"ok","missing":{}}'))

    async def openapi_json(self, _request: web.Request) -> web.Response:
        """`GET /openapi.json`."""
        return _response(Answer(200, document_json()))

    async def docs(self, _request: web.Request) -> web.Response:
        """`GET /docs`."""
        return _response(Answer(200, docs_html(), HTML))

    async def _body(self, request: web.Request) -> bytes | Answer:
        """Read a body within its bounds of size and time."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return problem(outcomes.INVALID, "send the body uncompressed")
        if (request.content_length or 0) > self._settings.body_bytes_max:
            return self._too_large()
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            return self._too_large()
        except TimeoutError:
            return problem(outcomes.INVALID, "the body did not arrive in time", (("Connection", "close"),))

    def _too_large(self) -> Answer:
        detail = f"the body may have at most {self._settings.body_bytes_max} bytes"
        return problem(outcomes.TOO_LARGE, detail, (("Connection", "close"),))


def campaign_answer(view: CampaignView, now_s: float) -> Answer:
    """Return the answer to `GET /v1/campaigns/{id}`."""
    body = {
        "campaign_id": view.id,
        "kind": view.kind,
        "state": view.state,
        "opens_at": _iso(view.opens_ms),
        "closes_at": _iso(view.closes_ms),
        "server_time": _iso(view.redis_ms(now_s)),
        "skus": [
            {
                "sku_id": sku,
                "state": sku_state(view, sku, now_s),
                "price_cents": line.price_cents,
                "per_user": line.per_user,
            }
            for sku, line in view.stock.items()
        ],
    }
    return Answer(200, orjson.dumps(body), JSON, (("Cache-Control", "no-store"),))


def _iso(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={"Content-Type": answer.content_type, **dict(answer.headers)},
    )


_HTTP_PROBLEMS: Final = {
    404: problem(outcomes.NOT_FOUND),
    413: problem(outcomes.TOO_LARGE),
}


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn aiohttp's own errors, and ours that nobody foresaw, into problem documents."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return _response(problem(outcomes.METHOD_NOT_ALLOWED, f"allowed here: {allowed}", (("Allow", allowed),)))
    except web.HTTPException as error:
        known = _HTTP_PROBLEMS.get(error.status)
        return _response(known or problem(outcomes.INVALID._replace(status=error.status), error.reason))
    except Exception:
        log.exception("unforeseen error at %s %s", request.method, request.path)
        return _response(problem(outcomes.UNKNOWN, headers=(("Retry-After", "1"),)))
