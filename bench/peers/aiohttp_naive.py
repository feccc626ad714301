"""`python -m bench.peers.aiohttp_naive`: a flash-sale endpoint as most tutorials build it, and nothing hobbled.

aiohttp under uvloop, PyJWT, redis-py with hiredis and a pool as large as the crowd, one EVALSHA a request.
"""

import argparse
import asyncio
import json
import signal
import uuid
from pathlib import Path
from typing import Any, Final

import jwt
import redis.asyncio as redis
import uvloop
from aiohttp import web

POOL_CONNECTIONS: Final = 128
POOL_WAIT_S: Final = 5.0
BUY: Final = Path(__file__).with_name("buy.lua")
QUANTITY_MAX: Final = 1_000
IDEMPOTENCY_KEY_MAX_BYTES: Final = 255


def _problem(status: int, code: str) -> web.Response:
    body = json.dumps({"title": code, "status": status, "code": code})
    return web.Response(status=status, text=body, content_type="application/problem+json")


class Shop:
    """Sells over HTTP."""

    def __init__(self, client: "redis.Redis", key: bytes, audience: str) -> None:
        self._buy = client.register_script(BUY.read_text(encoding="utf-8"))
        self._key = key
        self._audience = audience

    async def order(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/orders`."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return _problem(401, "UNAUTHENTICATED")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                audience=self._audience,
                options={"require": ["exp", "aud", "sub"]},
            )
        except jwt.InvalidTokenError:
            return _problem(401, "UNAUTHENTICATED")
        key = request.headers.get("Idempotency-Key", "")
        if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX_BYTES:
            return _problem(400, "KEY_MISSING")
        try:
            body = await request.json()
            campaign, sku, quantity = str(body["campaign_id"]), str(body["sku_id"]), int(body["quantity"])
        except (ValueError, KeyError, TypeError):
            return _problem(400, "INVALID")
        if not 1 <= quantity <= QUANTITY_MAX:
            return _problem(400, "INVALID")
        user = claims["sub"]
        slot = f"peer:{{{campaign}}}"
        code, order_id = await self._buy(
            keys=[f"{slot}:stock:{sku}", f"{slot}:order:{user}:{key}", f"{slot}:log"],
            args=[f"{campaign}~{uuid.uuid4().hex}", user, sku, quantity],
        )
        if code == 0:
            return _problem(409, "SOLD_OUT")
        placed = order_id.decode()
        headers = {"Location": f"/v1/orders/{placed}"}
        return web.json_response({"order_id": placed, "status": "accepted"}, status=202, headers=headers)


async def live(_: web.Request) -> web.Response:
    """Answer `GET /livez`."""
    return web.Response(text="ok")


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    pool = redis.BlockingConnectionPool(
        host="127.0.0.1", port=args.redis_port, max_connections=POOL_CONNECTIONS, timeout=POOL_WAIT_S
    )
    client = redis.Redis.from_pool(pool)
    shop = Shop(client, Path(args.key_file).read_bytes().strip(), args.audience)  # noqa: ASYNC240 -- once, at the start
    app = web.Application()
    app.router.add_post("/v1/orders", shop.order)
    app.router.add_get("/livez", live)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75)
    await runner.setup()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await web.TCPSite(runner, "127.0.0.1", args.port, backlog=4_096).start()
    await stopping.wait()
    await runner.cleanup()
    await client.aclose()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="bench.peers.aiohttp_naive")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis-port", type=int, required=True)
    parser.add_argument("--key-file", required=True)
    parser.add_argument("--audience", required=True)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
