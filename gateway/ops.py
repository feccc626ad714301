"""The ops plane: a port of its own, on loopback unless told otherwise, behind a bearer token."""

import asyncio
import hmac
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from domain.errors import ConfigError
from domain.settings import OpsSettings
from gateway.http import problems

log = logging.getLogger(__name__)

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Where the processes of one `up` keep their counts; set by the supervisor."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def read_token(settings: OpsSettings) -> str:
    """Return the token that the ops plane asks for.

    Raises:
        ConfigError: none is configured, or the file cannot be read or is empty.
    """
    if not settings.token_file:
        raise ConfigError("ops.token_file: name a file with the token of the ops plane")
    try:
        token = Path(settings.token_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"ops.token_file: {error.strerror}: {settings.token_file}") from None
    if not token:
        raise ConfigError(f"ops.token_file: {settings.token_file} is empty")
    return token


def render_metrics() -> bytes:
    """Return the metrics of all processes that share the folder, or of this process alone."""
    folder = os.environ.get(MULTIPROCESS_DIR)
    if folder:
        _forget_the_dead(Path(folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(REGISTRY)


def _forget_the_dead(folder: Path) -> None:
    """Take the live gauges of processes that have died out of the sum."""
    for path in folder.glob("gauge_live*_*.db"):
        if not Path("/proc", path.stem.rpartition("_")[2]).exists():
            path.unlink(missing_ok=True)


def ops_application(token: str, routes: Sequence[web.RouteDef] = ()) -> web.Application:
    """Return the aiohttp application of the ops plane: `/metrics`, and routes besides it."""

    @web.middleware
    async def authorized(request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "")
        if not hmac.compare_digest(sent.encode("utf-8", "replace"), f"Bearer {token}".encode()):
            return web.json_response(
                {"title": "The ops token is needed", "status": 401, "code": "UNAUTHENTICATED"},
                status=401,
                content_type="application/problem+json",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    async def metrics(_request: web.Request) -> web.Response:
        body = await asyncio.to_thread(render_metrics)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=1 << 16, middlewares=[authorized, problems])
    app.router.add_get("/metrics", metrics)
    app.add_routes(routes)
    return app


async def serve_ops(settings: OpsSettings, routes: Sequence[web.RouteDef] = ()) -> web.AppRunner:
    """Serve the ops plane; the caller cleans the runner up. `/metrics` needs nothing but this process.

    Raises:
        ConfigError: no token.
        OSError: the port is taken.
    """
    runner = web.AppRunner(
        ops_application(read_token(settings), routes),
        access_log=None,
        keepalive_timeout=75.0,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    await web.TCPSite(runner, settings.host, settings.port, backlog=64).start()
    return runner
