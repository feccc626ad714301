"""A lottery of its own on the shared servers: a shop whose buyers draw."""

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import aiohttp
import orjson

from adapters.campaign_stock import load_campaign
from adapters.draws import DrawReply, DrawRequest, draw, lottery_fields, move_lottery, read_unrelayed_logs
from adapters.kafka_reader import TopicReader
from adapters.lotteries import move
from adapters.mysql import query
from adapters.redis import ScriptChannel, make_client
from cli.clients import open_clients
from consumers.app import groups, make_award_writer, make_prize_writer
from consumers.backlog_view import read_backlog
from consumers.writer import Writer
from domain import keys
from domain.campaign import Campaign, parse_campaign
from domain.draw_events import (
    TOPIC_DRAWS_LOG,
    TOPIC_DRAWS_WON,
    DrawLog,
    decode_draw_log,
    decode_draw_won,
    in_order,
)
from domain.errors import PoisonRecordError
from domain.events import TOPIC_POINTS_AWARDED
from domain.lottery import Replay, Verdict, user_secret
from domain.order import order_id, user_hash
from domain.settings import RedisSettings, Settings
from gateway.app import read_key
from gateway.draw_records import log_record, won_records
from gateway.outgoing import Outgoing
from tests.support.metrics import Recorded
from tests.support.scripts import FAST, ScriptSale
from tests.support.shop import CONNECTIONS_MAX, Said, Shop, campaign_text
from warehouse.campaigns import load_into
from warehouse.stock_up import receive_what_is_short

SEED: Final = bytes(range(32))


class Kind(NamedTuple):
    """A kind of prize."""

    sku_id: str
    stock: int
    weight: int
    points: int


KINDS: Final = (Kind("gold", 1, 1, 500), Kind("silver", 5, 10, 50), Kind("bronze", 100, 40, 5))
FIVE_KINDS: Final = (
    Kind("gold", 10, 10, 5_000),
    Kind("silver", 40, 40, 500),
    Kind("bronze", 150, 150, 100),
    Kind("wood", 300, 300, 20),
    Kind("paper", 500, 500, 0),
)
"""1,000 prizes."""


def lottery_text(
    campaign_id: str,
    *,
    kinds: Sequence[Kind] = KINDS,
    no_prize_weight: int = 49,
    draws_per_user: int = 1,
    **campaign: Any,
) -> str:
    """Return a lottery's file; see `campaign_text` for what else may be set. The limits never bind unless set."""
    prizes = "".join(
        f'[[sku]]\nid = "{sku}"\nstock = {stock}\nweight = {weight}\npoints = {points}\n'
        for sku, stock, weight, points in kinds
    )
    whole = campaign_text(
        campaign_id,
        stock=[],
        head=f'kind = "lottery"\ndraws_per_user = {draws_per_user}',
        more=f"[lottery]\nno_prize_weight = {no_prize_weight}",
        **{"limits": FAST, **campaign},
    )
    return whole + prizes


def lottery_file(campaign_id: str, **lottery: Any) -> Campaign:
    """Return a lottery; see `lottery_text`."""
    return parse_campaign(lottery_text(campaign_id, **lottery), source="test")


# -- scripts alone -------------------------------------------------------------------------------------------------


@dataclass
class ScriptLottery(ScriptSale):
    """A lottery in a private Redis, whose scripts a test calls directly."""

    seed: bytes = SEED

    def request(self, user: str, key: str = "k") -> DrawRequest:
        """Return a draw as the gateway hands it on."""
        digest = order_id(self.id, user, key)[-32:]
        return DrawRequest(digest, user, user_hash(user), user_secret(self.seed, self.id, user))

    async def draw(self, *draws: DrawRequest, outbox_max: int = 1_000_000) -> DrawReply:
        """Have a batch decided."""
        return await draw(self.channel, self.id, draws, outbox_max=outbox_max)

    async def log(self) -> list[DrawLog]:
        """Return the log as the outbox has it."""
        return await read_unrelayed_logs(self.client, self.id)

    async def verdict(self) -> Verdict:
        """Replay the log."""
        return verdict_of(self.id, self.seed, await self.log())


def verdict_of(campaign_id: str, seed: bytes, logs: Sequence[DrawLog]) -> Verdict:
    """Replay a log."""
    replay = Replay(campaign_id, seed)
    replay.feed(log.entry for log in in_order(logs))
    return replay.verdict()


@contextlib.asynccontextmanager
async def script_lottery(
    server: RedisSettings, *, opened: bool = True, seed: bytes = SEED, **lottery: Any
) -> AsyncIterator[ScriptLottery]:
    """Load a lottery with an id of its own, and open it."""
    channel, client = ScriptChannel(server), make_client(server)
    made = lottery_file(f"t-{secrets.token_hex(5)}", **lottery)
    try:
        await load_campaign(channel, made, more_fields=lottery_fields(made, seed))
        if opened:
            await move_lottery(channel, made.id, "open")
        yield ScriptLottery(server, made, channel, client, seed)
    finally:
        await channel.close()
        await client.aclose()


# -- the whole way -------------------------------------------------------------------------------------------------


@dataclass
class LotteryShop(Shop):
    """One lottery and those who serve it."""

    drawn: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Draw id → the answer, of everything that was drawn."""
    drawers: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Draw id → user and key."""

    async def draw(self, url: str, user: str, key: str = "key-1", campaign: str = "") -> Said:
        """Send one draw; what was drawn is remembered."""
        body = orjson.dumps({"campaign_id": campaign or self.id})
        headers = {**self.bearer(user), "Idempotency-Key": key}
        said = await self.change(url, "/v1/draws", headers, body)
        if said.status == 200:
            assert self.drawn.setdefault(said.body["draw_id"], said.body) == said.body
            self.drawers[said.body["draw_id"]] = (user, key)
        return said

    def won(self) -> dict[str, tuple[str, int]]:
        """Return draw id → prize and points, of the draws that were told to have won."""
        return {
            draw_id: (answer["prize"]["sku_id"], answer["prize"]["points"])
            for draw_id, answer in self.drawn.items()
            if answer["prize"] is not None
        }

    async def log(self) -> list[DrawLog]:
        """Return this lottery's log as Kafka has it, duplicates included."""
        found = []
        async for record in TopicReader(self.settings.kafka, TOPIC_DRAWS_LOG).read():
            with contextlib.suppress(PoisonRecordError):
                log = decode_draw_log(record.value)
                if log.campaign_id == self.id:
                    found.append(log)
        return found

    async def published_wins(self) -> Counter[str]:
        """Return draw id → how often Kafka has the event that it won."""
        found: Counter[str] = Counter()
        async for record in TopicReader(self.settings.kafka, TOPIC_DRAWS_WON).read():
            with contextlib.suppress(PoisonRecordError):
                won = decode_draw_won(record.value)
                if won.campaign_id == self.id:
                    found[won.draw_id] += 1
        return found

    async def awards(self) -> dict[str, tuple[str, int]]:
        """Return draw id → user and points, of the awards in the points ledger."""
        rows = await query(
            self.clients.points,
            "SELECT ref_id, user_id, delta FROM points_ledger WHERE kind = 'award' AND ref_id LIKE %s",
            (f"{self.id}~%",),
        )
        return {ref_id: (user_id, int(delta)) for ref_id, user_id, delta in rows}

    async def balances(self) -> dict[str, int]:
        """Return user → points, of the users with an award of this lottery: what those awards come to."""
        rows = await query(
            self.clients.points,
            "SELECT user_id, CAST(SUM(delta) AS SIGNED) FROM points_ledger WHERE ref_id LIKE %s GROUP BY user_id",
            (f"{self.id}~%",),
        )
        return dict(rows)

    async def settled(self) -> bool:
        """Tell whether the writers of prizes have committed all that Kafka has."""
        found = await read_backlog(self.settings.kafka, groups(self.settings), monotonic=time.monotonic, measure_s=0.01)
        return all(one.lag == 0 for one in found.topics if one.topic in {TOPIC_DRAWS_WON, TOPIC_POINTS_AWARDED})

    @staticmethod
    def records_of(log: DrawLog) -> list[Outgoing]:
        """Return all that the relay publishes of an entry."""
        return [log_record(log), *won_records(log)]

    async def prizes_stored(self) -> dict[str, str]:
        """Return draw id → prize, of the orders that deliver one."""
        rows = await query(
            self.clients.orders, "SELECT order_id, sku_id FROM orders WHERE campaign_id = %s", (self.id,)
        )
        return dict(rows)

    @contextlib.asynccontextmanager
    async def prize_consumers(self) -> AsyncIterator[None]:
        """Run the writers of prizes and of points in this process."""
        settings = self.settings
        writers: list[Writer[Any, Any]] = [
            make_prize_writer(settings, self.clients.orders, topic=TOPIC_DRAWS_WON, metrics=Recorded()),
            make_award_writer(settings, self.clients.points, topic=TOPIC_POINTS_AWARDED, metrics=Recorded()),
        ]
        running = [asyncio.create_task(writer.run()) for writer in writers]
        try:
            yield
        finally:
            for writer in writers:
                writer.stop()
            await asyncio.gather(*running)


@contextlib.asynccontextmanager
async def open_lottery(settings: Settings, *, opened: bool = True, **lottery: Any) -> AsyncIterator[LotteryShop]:
    """Load a lottery with an id of its own as an operator does, open it, and yield the shop."""
    loaded = lottery_file(f"t-{secrets.token_hex(5)}", **lottery)
    async with (
        open_clients(settings) as clients,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX)) as session,
    ):
        await receive_what_is_short(clients.catalog, loaded, who="test", why="a test")
        await load_into(clients, loaded)
        if opened:
            await move(clients.channel, clients.client, loaded.id, "open")
        try:
            yield LotteryShop(settings, loaded, clients, session, read_key(settings))
        finally:
            # The shared servers outlive the test; its campaign must not be served by the relays of later ones.
            await clients.client.srem(keys.CAMPAIGNS, loaded.id)
