"""A catalog and orders of a test's own, on the shared servers, with campaigns that are allocated from its warehouse."""

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from adapters.campaign_stock import move_campaign
from adapters.catalog import CatalogCampaign, read_campaign
from adapters.holds import release
from adapters.mysql import Pool, query
from adapters.stock import OrderRequest, StockLine, admit, read_snapshot
from cli.clients import Clients, open_clients
from cli.migrate import upgrade_all
from domain import failpoints, keys
from domain.campaign import Campaign, parse_campaign
from domain.errors import BackendError
from domain.events import OrderAccepted
from domain.order import fingerprint, order_id, user_hash
from domain.outcomes import Outcome, ReleaseOutcome
from domain.settings import Settings, WarehouseSettings
from gateway.recovery import Recovery
from tests.support.flow import KnowNothing
from tests.support.shop import campaign_text
from warehouse.campaigns import finish_due, load_into, settle_closed
from warehouse.movements import Movement, move
from warehouse.rules import BookingKind
from warehouse.stores import wall_ms
from warehouse.view import read_report

LIMITS = "admit_per_s = 1000000\nadmit_burst = 1000000\nuser_per_s = 1000\nuser_burst = 1000\nunpaid_per_user = 1000"
ASKED_MAX = 500
LATER_MS = 3_600_000
"""By then all that was put off is due."""


class DiedError(Exception):
    """Ends a call at a fail point, as if its process had been killed there."""


@contextlib.contextmanager
def dying_at(fail_point: str) -> Iterator[None]:
    """Have whoever reaches a fail point end there; it must be reached."""

    def die(name: str) -> None:
        if name == fail_point:
            failpoints.hook = None
            raise DiedError(name)

    failpoints.hook = die
    try:
        yield
    except DiedError:
        pass
    else:
        raise AssertionError(f"{fail_point} was not reached")
    finally:
        failpoints.hook = None


@dataclass
class KnowsCatalog(KnowNothing):
    """Implements recovery's Sources: the real catalog, and orders that Kafka has and Redis has lost."""

    pool: Pool
    lost: Sequence[OrderAccepted] = ()

    async def events_since(self, _campaign_id: str, _since_ms: int) -> AsyncIterator[OrderAccepted]:
        """Yield what is lost."""
        for event in self.lost:
            yield event

    async def catalog(self, campaign_id: str) -> CatalogCampaign | None:
        """Ask it."""
        return await read_campaign(self.pool, campaign_id)


@dataclass
class House:
    """Where things are, and the campaigns and SKUs that were made."""

    settings: Settings
    clients: Clients
    campaigns: list[str] = field(default_factory=list)
    skus: list[str] = field(default_factory=list)
    later_ms: int = 0

    async def new_sku(self, units: int, *, warehouse_id: str = "") -> str:
        """Return a SKU of which so many units have come in."""
        sku_id = f"sku-{secrets.token_hex(4)}"
        self.skus.append(sku_id)
        if units:
            await self.receive(sku_id, units, warehouse_id=warehouse_id)
        return sku_id

    async def receive(self, sku_id: str, units: int, *, warehouse_id: str = "") -> None:
        """Have units come in."""
        await self._move(BookingKind.RECEIVE, sku_id, units, warehouse_id)

    async def reserve(self, sku_id: str, units: int, key: str = "") -> None:
        """Have the shop sell units."""
        await self._move(BookingKind.RESERVE, sku_id, units, "", key)

    async def _move(self, kind: BookingKind, sku_id: str, units: int, warehouse_id: str, key: str = "") -> None:
        movement = Movement(kind, sku_id, units, key or secrets.token_hex(8), warehouse_id, who="test")
        await move(self.clients.catalog, movement, wall_ms())

    def file(self, campaign_id: str, *stock: tuple[str, int], price_cents: int = 5900) -> Campaign:
        """Return a campaign's file."""
        text = campaign_text(campaign_id, stock=stock, per_user=1_000, limits=LIMITS)
        return parse_campaign(text.replace("5900", str(price_cents)), source="test")

    async def new_campaign(self, *stock: tuple[str, int]) -> str:
        """Load a campaign and open it; returns its id."""
        campaign_id = self.new_id()
        assert await load_into(self.clients, self.file(campaign_id, *stock)) == "created"
        await move_campaign(self.clients.channel, campaign_id, "open")
        return campaign_id

    def new_id(self) -> str:
        """Return the id of a campaign that is to be loaded."""
        self.campaigns.append(f"house-{secrets.token_hex(4)}")
        return self.campaigns[-1]

    async def line(self, campaign_id: str, sku_id: str) -> StockLine:
        """Return a SKU's numbers in Redis."""
        snapshot = await read_snapshot(self.clients.client, campaign_id)
        assert snapshot is not None
        return snapshot.stock[sku_id]

    async def state(self, campaign_id: str) -> str:
        """Return a campaign's state in Redis."""
        snapshot = await read_snapshot(self.clients.client, campaign_id)
        assert snapshot is not None
        return snapshot.fields["state"]

    async def buy(self, campaign_id: str, sku_id: str, user: str, quantity: int = 1) -> Outcome:
        """Have a buyer order, straight from Redis."""
        ((outcome, _),) = (
            await admit(
                self.clients.channel,
                campaign_id,
                [
                    OrderRequest(
                        order_id(campaign_id, user, "k")[-32:],
                        fingerprint(sku_id, quantity),
                        sku_id,
                        quantity,
                        user,
                        user_hash(user),
                    )
                ],
                attempts_max=8,
                outbox_max=1_000_000,
            )
        ).decisions
        return outcome

    async def give_back(self, campaign_id: str, user: str) -> None:
        """Have a buyer's order give its units back to its campaign, as an expired one does."""
        digest = order_id(campaign_id, user, "k")[-32:]
        assert await release(self.clients.channel, campaign_id, digest, user, 1) is ReleaseOutcome.RELEASED

    async def lose(self, campaign_id: str) -> None:
        """Have Redis lose a campaign."""
        for one in await self.clients.client.keys(f"fg:{{{campaign_id}:*"):
            await self.clients.client.delete(one)
        await self.clients.client.srem(keys.CAMPAIGNS, campaign_id)

    async def open_gate(
        self, campaign_id: str, *lost: OrderAccepted, sources: "KnowsCatalog | None" = None
    ) -> int | None:
        """Have recovery be done, which Kafka tells that these orders are lost; returns how many were restored."""
        told = sources or KnowsCatalog(self.clients.catalog, lost)
        return await Recovery(self.clients.channel, self.clients.client, told).open_gate(campaign_id)

    async def save(self, campaign_id: str) -> dict[str, bytes]:
        """Return all that Redis has of a campaign, as a replica that is behind goes on having it."""
        found: dict[str, bytes] = {}
        async for name in self.clients.client.scan_iter(match=f"fg:{{{campaign_id}:*"):
            packed = await self.clients.client.dump(name)
            assert packed is not None
            found[name.decode()] = packed
        return found

    async def fail_over(self, campaign_id: str, saved: dict[str, bytes]) -> None:
        """Have Redis be an older replica: what it has of a campaign is what was saved, and its gate is closed."""
        await self.lose(campaign_id)
        for name, packed in saved.items():
            await self.clients.client.restore(name, 0, packed)
        await self.clients.client.sadd(keys.CAMPAIGNS, campaign_id)
        await self.clients.client.hset(keys.campaign(campaign_id), "run_id", "the one before")

    async def finish(self) -> int:
        """Do what the process does that carries out what others left half done."""
        self.later_ms += LATER_MS
        return await finish_due(self.clients, WarehouseSettings(), wall_ms() + self.later_ms)

    async def settle(self, *, everything: bool = False) -> int:
        """Do what that process does for closed campaigns."""
        return await settle_closed(self.clients, WarehouseSettings(), wall_ms(), everything=everything)

    async def numbers(self, sku_id: str) -> tuple[int, int, int]:
        """Return a SKU's units on hand, allocated and reserved, over all warehouses."""
        ((on_hand, allocated, reserved),) = await query(
            self.clients.catalog,
            "SELECT CAST(SUM(on_hand) AS SIGNED), CAST(SUM(allocated) AS SIGNED), CAST(SUM(reserved) AS SIGNED) "
            "FROM warehouse_stock WHERE sku_id = %s",
            (sku_id,),
        )
        return int(on_hand), int(allocated), int(reserved)

    async def allocated(self, campaign_id: str) -> dict[str, int]:
        """Return SKU → units that the catalog has allocated."""
        rows = await query(
            self.clients.catalog, "SELECT sku_id, quantity FROM allocation WHERE campaign_id = %s", (campaign_id,)
        )
        return dict(rows)

    async def owed(self) -> list[tuple[str, str]]:
        """Return (reference, error) of what is not carried out yet."""
        return [
            (ref, error)
            for ref, error in await query(
                self.clients.catalog, "SELECT ref, error FROM allocation_due WHERE done_at_ms IS NULL ORDER BY ref"
            )
        ]

    async def dump(self) -> object:
        """Return everything that the catalog, the counters and Redis have of what was made."""
        tables = ("campaign", "allocation", "warehouse_allocation", "warehouse_stock", "warehouse_ledger", "sku")
        names = [name for one in self.campaigns async for name in self.clients.client.scan_iter(match=f"fg:{{{one}:*")]
        return [
            *[await query(self.clients.catalog, f"SELECT * FROM {table}") for table in tables],  # noqa: S608 -- names
            await query(self.clients.orders, "SELECT * FROM campaign_sku"),
            {name: await self.clients.client.dump(name) for name in sorted(names)},
        ]

    async def assert_balanced(self) -> None:
        """Assert that nothing is owed, every book balances, and catalog, orders and Redis have the same figures."""
        assert await self.owed() == []
        report = await read_report(self.clients.catalog)
        assert report.balanced, report
        counters = await query(self.clients.orders, "SELECT campaign_id, sku_id, allocated FROM campaign_sku")
        for campaign_id in self.campaigns:
            catalog = await self.allocated(campaign_id)
            assert {sku_id: units for one, sku_id, units in counters if one == campaign_id} == catalog
            snapshot = await read_snapshot(self.clients.client, campaign_id)
            stock = snapshot.stock if snapshot else {}
            assert {sku_id: line.allocated for sku_id, line in stock.items()} == {
                sku_id: units for sku_id, units in catalog.items() if units or sku_id in stock
            }
            for line in stock.values():
                assert line.allocated == line.remaining + line.taken - line.returned


@contextlib.asynccontextmanager
async def new_house(settings: Settings) -> AsyncIterator[House]:
    """Make schemas of one's own; they are dropped afterwards, and the campaigns forgotten."""
    name = secrets.token_hex(4)
    mysql = settings.mysql
    mysql = msgspec.structs.replace(
        mysql, orders_dsn=f"{mysql.orders_dsn}_{name}", catalog_dsn=f"{mysql.catalog_dsn}_{name}"
    )
    own = msgspec.structs.replace(settings, mysql=mysql)
    upgrade_all(own)
    async with open_clients(own) as clients:
        house = House(own, clients)
        try:
            yield house
        finally:
            failpoints.hook = None
            for campaign_id in house.campaigns:
                await house.lose(campaign_id)
            for pool in (clients.catalog, clients.orders):
                await query(pool, f"DROP DATABASE {pool.dsn.database}")


async def until_told(ask: Callable[[], Awaitable[object]]) -> object:
    """Ask until there is an answer; a deadlock is none."""
    last = ""
    for _ in range(ASKED_MAX):
        try:
            return await ask()
        except BackendError as error:
            last = str(error)
    raise AssertionError(f"no answer: {last}")
