"""What `flashgate bench load` drives: a gateway that runs already, and a campaign on it."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from bench.errors import BenchError
from bench.sale import Sale
from cli.clients import open_clients
from domain.campaign import Campaign, Sku
from domain.settings import Settings
from stack.runtime import read_runtime
from warehouse.campaigns import close_campaign
from warehouse.stock_up import put_on_sale

SPARE_UNITS: Final = 1_000
SOLD_OUT_SKU: Final = "sold-out"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is ordered: a SKU, and perhaps one that is sold out."""

    campaign_id: str
    sku_id: str
    sold_out_sku_id: str = ""


def gateway_url(told: str) -> str:
    """Return the URL told, or that of the running `up`.

    Raises:
        BenchError: none was told, and nothing is running.
    """
    if told:
        return told
    runtime = read_runtime()
    url = runtime.services.get("gateway") if runtime else None
    if not url:
        raise BenchError("no `flashgate up` is running here; start one, or say where a gateway is: --url")
    return str(url)


def address(url: str) -> tuple[str, int]:
    """Return host and port of a gateway's URL.

    Raises:
        BenchError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        raise BenchError(f"--url: {url!r} is no URL") from None
    if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"}:
        raise BenchError(f"--url: {url!r}: give http://HOST:PORT (TLS ends upstream of the gateway)")
    return parts.hostname, port


def own_campaign(units: int) -> Campaign:
    """Return a campaign for one run: a SKU with so many units, and one with none."""
    sale = Sale(f"bench-{int(time.time())}-{secrets.token_hex(2)}", units)
    campaign = sale.campaign()
    return msgspec.structs.replace(campaign, sku=(*campaign.sku, Sku(id=SOLD_OUT_SKU, stock=0)))


@contextlib.asynccontextmanager
async def own_sale(settings: Settings, units: int) -> AsyncIterator[Wanted]:
    """Load and open a campaign of its own on the servers of these settings; it is closed afterwards.

    Raises:
        FlashgateError: Redis or MySQL is not there.
    """
    campaign = own_campaign(units)
    async with open_clients(settings) as clients:
        await put_on_sale(clients, campaign, who="bench")
        try:
            yield Wanted(campaign.id, campaign.sku[0].id, SOLD_OUT_SKU)
        finally:
            await close_campaign(clients, campaign.id)
