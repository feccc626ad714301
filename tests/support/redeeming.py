"""A redemption campaign of its own on the shared servers: a shop whose buyers pay in points."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from adapters.campaign_stock import move_campaign
from adapters.kafka_reader import open_reader
from adapters.points import move_once
from adapters.stock import StockLine, read_snapshot
from cli.clients import open_clients
from domain import keys
from domain.campaign import Campaign, parse_campaign
from domain.errors import PoisonRecordError
from domain.points import LedgerKind, Moved, Movement
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, RedemptionAccepted, decode_redemption_accepted
from domain.settings import Settings
from gateway.app import GatewayWorker, read_key
from gateway.redemptions import Check
from tests.support.scripts import FAST
from tests.support.shop import CONNECTIONS_MAX, SKU, Said, Shop, campaign_text
from warehouse.campaigns import load_into
from warehouse.stock_up import receive_what_is_short

PRICE: Final = 300
"""Points of one unit."""
CHECKS: Final = ("campaign", "stock", "points")


def redemption_text(campaign_id: str, *, stock: int = 10, price: int = PRICE, per_user: int = 1, **more: Any) -> str:
    """Return a file of one SKU, whose price in cents is nobody's; the limits never bind unless set."""
    head = campaign_text(campaign_id, stock=[], head='kind = "redemption"', **{"limits": FAST, **more})
    return (
        f'{head}[[sku]]\nid = "{SKU}"\nstock = {stock}\nprice_cents = 5900\npoints_price = {price}\n'
        f"per_user = {per_user}\n"
    )


def redemption_file(campaign_id: str, **more: Any) -> Campaign:
    """Return a redemption campaign; see `redemption_text`."""
    return parse_campaign(redemption_text(campaign_id, **more), source="test")


@dataclass
class RedemptionShop(Shop):
    """One redemption campaign and those who serve it; users are of this campaign alone."""

    granted: int = field(default=0)

    def user(self, name: str) -> str:
        """Return a user whom no other test knows."""
        return f"{self.id}.{name}"

    async def grant(self, name: str, points: int) -> None:
        """Give a user points."""
        self.granted += 1
        wanted = Movement(f"{self.id}-{self.granted}", LedgerKind.GRANT, self.user(name), points)
        assert await move_once(self.clients.points, wanted, at_ms=1) is Moved.NEW

    async def spend(self, name: str, points: int, order_id: str) -> None:
        """Take a user's points for an order, as its saga does."""
        wanted = Movement(order_id, LedgerKind.SPEND, self.user(name), -points)
        assert await move_once(self.clients.points, wanted, at_ms=1) is Moved.NEW

    async def redeem(self, url: str, name: str, key: str = "key-1", quantity: int = 1, campaign: str = "") -> Said:
        """Send one redemption; an acceptance is remembered."""
        body = orjson.dumps({"campaign_id": campaign or self.id, "sku_id": SKU, "quantity": quantity})
        headers = {**self.bearer(self.user(name)), "Idempotency-Key": key}
        said = await self.change(url, "/v1/redemptions", headers, body)
        if said.status == 202:
            self.accepted[said.body["order_id"]] = (name, key, quantity)
        return said

    async def assert_redeemed_again(self, url: str) -> None:
        """Assert that every redemption, asked again, gets the same acceptance."""
        for order_id, (name, key, quantity) in list(self.accepted.items()):
            said = await self.redeem(url, name, key, quantity)
            assert (said.status, said.body.get("order_id")) == (202, order_id)
            assert said.headers.get("Idempotent-Replayed") == "true"

    async def line(self) -> StockLine:
        """Return the SKU's numbers."""
        snapshot = await read_snapshot(self.clients.client, self.id)
        assert snapshot is not None
        line = snapshot.stock[SKU]
        assert line.allocated == line.remaining + line.taken - line.returned
        return line

    async def redemptions_published(self) -> list[RedemptionAccepted]:
        """Return this campaign's redemptions in Kafka, duplicates included."""
        found = []
        async with open_reader(self.settings.kafka) as reader:
            spans = await reader.spans(TOPIC_REDEMPTIONS_ACCEPTED)
            async for record in reader.read(TOPIC_REDEMPTIONS_ACCEPTED, spans):
                with contextlib.suppress(PoisonRecordError):
                    event = decode_redemption_accepted(record.value)
                    if event.campaign_id == self.id:
                        assert record.key == event.order_id.encode()
                        found.append(event)
        return found


@contextlib.asynccontextmanager
async def open_redemption(settings: Settings, *, opened: bool = True, **more: Any) -> AsyncIterator[RedemptionShop]:
    """Load a redemption campaign with an id of its own as an operator does, open it, and yield the shop."""
    loaded = redemption_file(f"t-{secrets.token_hex(5)}", **more)
    async with (
        open_clients(settings) as clients,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX)) as session,
    ):
        await receive_what_is_short(clients.catalog, loaded, who="test", why="a test")
        await load_into(clients, loaded)
        if opened:
            await move_campaign(clients.channel, loaded.id, "open")
        try:
            yield RedemptionShop(settings, loaded, clients, session, read_key(settings))
        finally:
            # The shared servers outlive the test; its campaign must not be served by the relays of later ones.
            await clients.client.srem(keys.CAMPAIGNS, loaded.id)


# -- holding up the checks of a worker -----------------------------------------------------------------------------


class Held:
    """Looks of a worker that wait for a test; says in which order they begin and come back."""

    def __init__(self, worker: GatewayWorker) -> None:
        self._checks: dict[str, Check[Any, Any]] = {name: getattr(worker.redemptions, name) for name in CHECKS}
        self.told: list[tuple[str, str]] = []
        """(`begun` or `back`, check), in their order."""
        self._moved = asyncio.Condition()

    def hold(self, name: str, until: Callable[[], bool]) -> None:
        """Have a check's store be asked, and its answer be kept until something holds."""
        check = self._checks[name]
        look = check.look

        async def slowly(wanted: Sequence[Any]) -> Any:
            await self._tell("begun", name)
            found = await look(wanted)
            async with self._moved:
                await self._moved.wait_for(until)
            await self._tell("back", name)
            return found

        check.look = slowly

    async def _tell(self, what: str, name: str) -> None:
        async with self._moved:
            self.told.append((what, name))
            self._moved.notify_all()

    def has(self, what: str, *names: str) -> bool:
        """Tell whether these have begun, or come back."""
        return all((what, name) in self.told for name in names)

    async def let_go(self, then: Callable[[], None]) -> None:
        """Change what is waited for."""
        async with self._moved:
            then()
            self._moved.notify_all()


def replace_look(worker: GatewayWorker, name: str, look: Callable[[Sequence[Any]], Awaitable[Any]]) -> None:
    """Have a check ask something else."""
    check: Check[Any, Any] = getattr(worker.redemptions, name)
    check.look = look
