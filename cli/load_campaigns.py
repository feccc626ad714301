"""What buyers of a load test come for: a sale, a lottery, a redemption, or all three by turns, open for one run."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import aiohttp
import msgspec

from adapters.mysql import Pool, insert_many, transaction
from adapters.points import ADD_TO_ACCOUNTS, INSERT_LEDGER, MOVES, NONCE_BYTES, OPEN_ACCOUNTS, ledger_values
from bench.drive import body
from bench.errors import BenchError
from bench.load_messages import Aim
from bench.sale import Sale
from cli.clients import Clients
from cli.load_target import Target
from domain.campaign import LOTTERY, REDEMPTION, Campaign, CampaignLottery, Sku
from domain.points import LedgerKind, Movement, grant_ref
from warehouse.campaigns import close_campaign
from warehouse.stock_up import put_on_sale

SPARE_UNITS: Final = 1_000
SOLD_OUT_SKU: Final = "sold-out"
POINTS_PRICE: Final = 10
PRIZES: Final = ((100, 50), (300, 10), (600, 0))
"""Weight and points of each kind."""
NO_PRIZE_WEIGHT: Final = 4_000
"""One of five wins, which is many for a lottery."""
ACCOUNTS_A_TRANSACTION: Final = 1_000
KNOWN_TIMEOUT_S: Final = 10.0
KNOWN_POLL_S: Final = 0.1
PATHS: Final = {"sale": "/v1/orders", "lottery": "/v1/draws", "redemption": "/v1/redemptions"}


class Scenario(StrEnum):
    """What buyers come for."""

    SALE = "sale"
    LOTTERY = "lottery"
    REDEMPTION = "redemption"
    MIXED = "mixed"
    """One of the three each, by turns."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its campaigns."""
        return ("sale", LOTTERY, REDEMPTION) if self is Scenario.MIXED else (str(self),)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: a SKU of a campaign, and perhaps one that is sold out."""

    campaign_id: str
    sku_id: str
    sold_out_sku_id: str = ""
    kind: str = "sale"

    def aim(self) -> Aim:
        """Return the request that asks for it."""
        text = (
            f'{{"campaign_id":"{self.campaign_id}"}}' if self.kind == LOTTERY else body(self.campaign_id, self.sku_id)
        )
        return Aim(path=PATHS[self.kind], text=text)


def own_campaign(units: int, kind: str = "sale") -> Campaign:
    """Return a campaign for one run with so many units, a lottery of each prize; a sale has a second SKU with none."""
    name = {"sale": "bench", LOTTERY: "benchl", REDEMPTION: "benchr"}[kind]
    sale = Sale(f"{name}-{int(time.time())}-{secrets.token_hex(2)}", units)
    campaign = sale.campaign()
    if kind == "sale":
        return msgspec.structs.replace(campaign, sku=(*campaign.sku, Sku(id=SOLD_OUT_SKU, stock=0)))
    head = msgspec.structs.replace(campaign.campaign, kind=kind)
    if kind == REDEMPTION:
        sku = msgspec.structs.replace(campaign.sku[0], points_price=POINTS_PRICE)
        return msgspec.structs.replace(campaign, campaign=head, sku=(sku,))
    return Campaign(
        campaign=head,
        limits=campaign.limits,
        lottery=CampaignLottery(no_prize_weight=NO_PRIZE_WEIGHT),
        sku=tuple(
            Sku(id=f"prize-{number}", stock=units, weight=weight, points=points)
            for number, (weight, points) in enumerate(PRIZES)
        ),
    )


@contextlib.asynccontextmanager
async def own_campaigns(clients: Clients, kinds: Sequence[str], units: int) -> AsyncIterator[list[Wanted]]:
    """Load and open a campaign of each kind, with so many units each; they are closed afterwards.

    Raises:
        FlashgateError: Redis or MySQL is not there.
    """
    async with contextlib.AsyncExitStack() as opened:
        wanted = []
        for kind in kinds:
            campaign = own_campaign(units, kind)
            await put_on_sale(clients, campaign, who="bench")
            opened.push_async_callback(close_campaign, clients, campaign.id)
            sold_out = SOLD_OUT_SKU if kind == "sale" else ""
            wanted.append(Wanted(campaign.id, campaign.sku[0].id, sold_out, kind))
        yield wanted


async def grant_points(pool: Pool, user_ids: Iterable[str], points: int) -> None:
    """Give buyers who have no account yet points, so that they can redeem.

    Raises:
        BackendError: MySQL is not there.
    """
    users = sorted(user_ids)
    for start in range(0, len(users), ACCOUNTS_A_TRANSACTION):
        some, nonce, at_ms = users[start : start + ACCOUNTS_A_TRANSACTION], secrets.token_bytes(NONCE_BYTES), _wall_ms()
        moves = [Movement(grant_ref(user, "bench"), LedgerKind.GRANT, user, points) for user in some]
        async with transaction(pool) as cursor:
            await insert_many(cursor, OPEN_ACCOUNTS, [(user,) for user in some])
            await insert_many(cursor, INSERT_LEDGER, [ledger_values(one, nonce, at_ms, "bench") for one in moves])
            await insert_many(cursor, ADD_TO_ACCOUNTS, [(user, points, MOVES) for user in some])


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def until_known(target: Target, campaign_ids: Iterable[str]) -> None:
    """Wait until the gateway shows campaigns.

    Raises:
        BenchError: it does not, or cannot be reached.
    """
    last = "no answer"
    for campaign_id in campaign_ids:
        try:
            async with aiohttp.ClientSession() as session, asyncio.timeout(KNOWN_TIMEOUT_S):
                while True:
                    async with session.get(f"{target.url}/v1/campaigns/{campaign_id}") as answer:
                        if answer.status == 200:
                            break
                        last = f"it answers {answer.status}"
                    await asyncio.sleep(KNOWN_POLL_S)
        except aiohttp.ClientError as error:
            raise BenchError(f"{target.url} cannot be reached: {error}") from None
        except TimeoutError:
            raise BenchError(f"{target.url} does not show the campaign {campaign_id!r}: {last}") from None
