"""The demo after the sale: most buyers pay, some cancel or let their order expire, others buy what comes back."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from adapters.mysql import query
from adapters.stock import read_snapshot
from bench.crowd import buyer_name, purchase_key
from cli.clients import Clients
from cli.demo_outbound import Clerk
from cli.demo_view import View
from cli.token import make_token
from domain.campaign import Campaign
from domain.order_state import OrderStatus
from domain.settings import Settings

STOCK_MAX: Final = 5_000
"""The demo sells more than this, but does not let so many pay."""
PAY_SHARE: Final = 0.75
CANCEL_SHARE: Final = 0.05
"""Of those who were accepted; the rest let their order expire."""
AT_ONCE: Final = 32
"""Buyers who do something at a time."""
TRIES_MAX: Final = 40
TRY_AGAIN_S: Final = 0.25
LOOK_S: Final = 0.1
TELL_S: Final = 1.0
SETTLE_S: Final = 60.0
"""How long everything may take beyond the time to pay."""
AS_JSON: Final = {"Accept": "application/json"}
NOT_NOW: Final = frozenset({429, 503})
OPEN_WORK: Final = (
    "SELECT (SELECT COUNT(*) FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NULL) + "
    "(SELECT COUNT(*) FROM payment WHERE campaign_id = %s AND status IN ('reacquiring', 'refund_due')) + "
    "(SELECT COUNT(*) FROM warehouse_due WHERE campaign_id = %s AND done_at_ms IS NULL) + "
    "(SELECT COUNT(*) FROM saga WHERE campaign_id = %s AND ended_at_ms IS NULL)"
)
UNDER_WAY: Final = (OrderStatus.CONFIRMED, OrderStatus.PAID, OrderStatus.APPROVED, OrderStatus.REJECTED)
"""In these an order waits for its buyer, for the clerk, for the warehouse or for its money."""


def pay_within_s(buyers: int, stock: int) -> int:
    """Return the demo's time to pay: long enough for everybody to be served and to pay, and not much longer."""
    return 5 + buyers // 20_000 + min(buyers, stock) // 300


@dataclass
class Life:
    """What became of the orders.

    Attributes:
        accepted: orders that were answered 202 during the sale.
        statuses: status → orders in MySQL at the end.
        accepted_ids: order ids that were answered 202 after the sale.
        wrong: answers that nobody should get → how many.
    """

    accepted: int
    statuses: Counter[str] = field(default_factory=Counter)
    accepted_ids: set[str] = field(default_factory=set)
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def all_stored(self) -> bool:
        """Whether MySQL has every order that was answered 202."""
        return sum(self.statuses.values()) >= self.accepted + len(self.accepted_ids)

    @property
    def text(self) -> str:
        """How things stand, in one line."""
        named = [
            f"{self.statuses[one]:,} {one}" for one in OrderStatus if self.statuses[one] or one is OrderStatus.SHIPPED
        ]
        return f"{', '.join(named)}; {len(self.accepted_ids):,} sold again"


class Buyers:
    """What buyers do once the sale is over, over HTTP like everybody.

    Args:
        settings: where tokens come from.
        key: what they are signed with.
        campaign: what is sold; one unit of its first SKU each.
        gateway_url: the buyer plane.
        session: of the HTTP client.
        seed: of the crowd, whose keys are used again.
        path: of the call that buys.
    """

    def __init__(
        self,
        settings: Settings,
        key: bytes,
        campaign: Campaign,
        gateway_url: str,
        session: aiohttp.ClientSession,
        *,
        seed: int,
        path: str = "/v1/orders",
    ) -> None:
        self._settings = settings
        self._key = key
        self._url = gateway_url
        self._session = session
        self._seed = seed
        self._path = path
        wanted = {"campaign_id": campaign.id, "sku_id": campaign.sku[0].id, "quantity": 1}
        self._order = orjson.dumps(wanted)

    async def pay(self, order_id: str, user: str) -> int:
        """Begin a payment and pay where the answer says; returns the status of the answer, 202 if all went well."""
        status, body = await self._post(f"/v1/orders/{order_id}/payment", user, "pay")
        if status == 202 and body.get("status") == "pending":
            return await self._pay_there(str(body["pay_url"]))
        return status

    async def _pay_there(self, url: str) -> int:
        """Pay on the provider's page; returns 202 if it was taken, else what was answered."""
        status = 0
        for _ in range(TRIES_MAX):
            try:
                async with self._session.post(url, json={"decision": "approve"}, headers=AS_JSON) as answer:
                    await answer.read()
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError):
                status = 0
            if status == 200:
                return 202
            if status and status not in NOT_NOW:
                break
            await asyncio.sleep(TRY_AGAIN_S)
        return status

    async def cancel(self, order_id: str, user: str) -> int:
        """Cancel an order; returns the status of the answer."""
        return (await self._post(f"/v1/orders/{order_id}/cancel", user, "cancel"))[0]

    async def buy(self, number: int) -> tuple[int, str]:
        """Ask for a unit again, with the key of the first time; returns the answer's status and the order's id."""
        key = purchase_key(self._seed, number)
        status, body = await self._post(self._path, buyer_name(number), key, self._order)
        return status, str(body.get("order_id", ""))

    async def _post(self, path: str, user: str, key: str, content: bytes = b"") -> tuple[int, dict[str, Any]]:
        """Send a POST; who is told to come back does so."""
        headers = {
            "Authorization": f"Bearer {make_token(self._settings.auth, self._key, user)}",
            "Idempotency-Key": key,
        }
        status, body = 0, {}
        for _ in range(TRIES_MAX):
            try:
                async with self._session.post(self._url + path, data=content, headers=headers) as answer:
                    status, body = answer.status, orjson.loads(await answer.read() or b"{}")
            except (aiohttp.ClientError, TimeoutError):
                status, body = 0, {}
            if status and status not in NOT_NOW and body.get("code") != "NOT_READY":
                break
            await asyncio.sleep(TRY_AGAIN_S)
        return status, body


async def live_on(
    buyers: Buyers,
    clients: Clients,
    campaign: Campaign,
    view: View,
    *,
    new_clerk: Callable[[Sequence[str]], Clerk],
    orders: Sequence[tuple[str, str]],
    empty_handed: Sequence[int],
    accepted: int,
) -> Life:
    """Have buyers pay, cancel and wait, and others buy what comes back, until every order is settled.

    Meanwhile a clerk reviews what is paid.

    Args:
        buyers: who act.
        clients: where to look how things stand.
        campaign: what was sold.
        view: told how things go.
        new_clerk: returns who reviews what is paid, given the orders that are paid at first.
        orders: (order id, user id) of all that were accepted.
        empty_handed: numbers of buyers who were told SOLD_OUT.
        accepted: how many orders were answered 202 during the sale.
    """
    life = Life(accepted)
    turns = asyncio.Semaphore(AT_ONCE)

    def note(status: int, name: str, *, fine: int) -> None:
        if status not in {fine, 409}:  # 409: the order has expired meanwhile
            life.wrong[f"{status} to {name}"] += 1

    async def pay(order_id: str, user: str) -> None:
        async with turns:
            note(await buyers.pay(order_id, user), "a payment", fine=202)

    async def cancel(order_id: str, user: str) -> None:
        async with turns:
            note(await buyers.cancel(order_id, user), "a cancel", fine=200)

    cancelling = round(len(orders) * CANCEL_SHARE)
    paying = cancelling + round(len(orders) * PAY_SHARE)
    clerk = new_clerk([order_id for order_id, _ in orders[cancelling:paying]])
    async with asyncio.TaskGroup() as acts:
        reviewing = acts.create_task(clerk.work())
        for order_id, user in orders[:cancelling]:
            acts.create_task(cancel(order_id, user))
        for order_id, user in orders[cancelling:paying]:
            acts.create_task(pay(order_id, user))

        async def buy_again(number: int) -> bool:
            status, order_id = await buyers.buy(number)
            if status == 202:
                life.accepted_ids.add(order_id)
                acts.create_task(pay(order_id, buyer_name(number)))
            else:
                note(status, "an order", fine=202)
            return status == 202

        settle_s = campaign.campaign.pay_within_s + SETTLE_S
        await sell_again(buy_again, clients, campaign, view, life, deque(empty_handed), clerk, settle_s=settle_s)
        clerk.stop()
        await reviewing
    view.say(life.text)
    return life


async def sell_again(
    buy: Callable[[int], Awaitable[bool]],
    clients: Clients,
    campaign: Campaign,
    view: View,
    life: Life,
    empty_handed: "deque[int]",
    clerk: Clerk,
    *,
    under_way: Collection[OrderStatus] = UNDER_WAY,
    settle_s: float,
) -> None:
    """Have those who went away empty-handed buy what comes back, until nothing can come back any more.

    Args:
        buy: has a buyer ask again; returns whether he was served.
        clients: where to look how things stand.
        campaign: what is sold.
        view: told how things go.
        life: kept up to date.
        empty_handed: numbers of buyers; whoever is served leaves.
        clerk: who may wait for parcels.
        under_way: in these statuses something is to be expected of an order.
        settle_s: how long it may take.
    """
    deadline_s = time.monotonic() + settle_s
    told_s, told = 0.0, ""
    while time.monotonic() < deadline_s:
        left = await _units_left(clients, campaign.id)
        coming = [empty_handed.popleft() for _ in range(min(left, len(empty_handed), AT_ONCE))]
        served = await asyncio.gather(*(buy(number) for number in coming))
        empty_handed.extend(number for number, got in zip(coming, served, strict=True) if not got)
        life.statuses = await _statuses(clients, campaign.id)
        if time.monotonic() >= told_s and life.text != told:
            told_s, told = time.monotonic() + TELL_S, life.text
            view.say(told)
        settled = life.all_stored and not any(life.statuses[one] for one in under_way)
        settled = settled and clerk.is_done and not await _open_work(clients, campaign.id)
        # Looked at anew, after the last unit can have come back.
        if settled and not coming and (not empty_handed or not await _units_left(clients, campaign.id)):
            return
        if not coming:
            await asyncio.sleep(LOOK_S)


async def _units_left(clients: Clients, campaign_id: str) -> int:
    snapshot = await read_snapshot(clients.client, campaign_id)
    return sum(line.remaining for line in snapshot.stock.values()) if snapshot else 0


async def _statuses(clients: Clients, campaign_id: str) -> Counter[str]:
    sql = "SELECT status, COUNT(*) FROM orders WHERE campaign_id = %s GROUP BY status"
    return Counter({status: int(count) for status, count in await query(clients.orders, sql, (campaign_id,))})


async def _open_work(clients: Clients, campaign_id: str) -> int:
    return int((await query(clients.orders, OPEN_WORK, (campaign_id,) * 4))[0][0])
