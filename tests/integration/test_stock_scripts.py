"""The scripts around admission on a real Redis: release, top-up, load, restore, states; and the stock's equation."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adapters.campaign_stock import (
    NotClosedError,
    Standing,
    TopUpRefusedError,
    load_campaign,
    move_campaign,
    top_up,
    withdraw,
)
from adapters.holds import release
from adapters.redis import ScriptChannel
from adapters.stock import LostOrder, open_gate, read_snapshot
from domain import keys
from domain.campaign import STOCK_MAX
from domain.errors import FencedError, OperationRefusedError, PoisonRecordError
from domain.order import user_hash
from domain.outbox import decode_entry
from domain.outcomes import Outcome, ReleaseOutcome
from domain.settings import RedisSettings
from tests.support.scripts import ScriptSale, private_redis, sale_file, script_sale
from tests.support.scripts import restore_now as restore
from tests.support.shop import SKU

ACCEPTED, REPLAYED = Outcome.ACCEPTED, Outcome.REPLAYED
RELEASED, ALREADY = ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_RELEASED


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisSettings]:
    """Return a private Redis."""
    async with private_redis(tmp_path_factory.mktemp("redis")) as settings:
        yield settings


# -- release and top-up --------------------------------------------------------------------------------------------


async def test_release_happens_once(server: RedisSettings) -> None:
    """However often and from wherever a release is asked, the units come back once, and the epoch rises once."""
    async with script_sale(server, stock=5, per_user=3) as sale, contextlib.AsyncExitStack() as closing:
        ann = sale.order("ann", quantity=3)
        assert await sale.outcomes(ann) == [ACCEPTED]
        before = await sale.line()
        channels = [ScriptChannel(server) for _ in range(5)]
        for channel in channels:
            closing.push_async_callback(channel.close)
        said = await asyncio.gather(*(release(channels[n % 5], sale.id, ann.digest, "ann", 1) for n in range(20)))
        assert (said.count(RELEASED), said.count(ALREADY)) == (1, 19)
        assert await sale.line() == before._replace(remaining=5, returned=3, epoch=before.epoch + 1)
        assert [attempt.held for attempt in await sale.attempts("ann")] == [False]
        # The acceptance stays what it was, and takes no stock when it is asked for again.
        assert await sale.outcomes(ann) == [REPLAYED]
        assert (await sale.line()).remaining == 5


async def test_release_of_what_is_not_held(server: RedisSettings) -> None:
    """An unknown order, another's order, a hold that never was, a corrupt record: an answer each, nothing changes."""
    async with script_sale(server, per_user=3) as sale:
        ann = sale.order("ann")
        assert await sale.outcomes(ann) == [ACCEPTED]
        await sale.client.set(keys.buyer(sale.id, "bad"), b"\xc1")
        before = await sale.dump()
        cases = [
            ("0" * 32, "ann", 1, ReleaseOutcome.NO_SUCH_HOLD),
            (ann.digest, "ben", 1, ReleaseOutcome.NO_SUCH_HOLD),
            (ann.digest, "ann", 2, ReleaseOutcome.NO_SUCH_HOLD),
            (ann.digest, "ann", 0, ALREADY),
            (ann.digest, "bad", 1, ReleaseOutcome.CORRUPT_RECORD),
        ]
        for digest, user, hold_no, expected in cases:
            assert await release(sale.channel, sale.id, digest, user, hold_no) is expected
        assert await sale.dump() == before


async def test_release_reopens_a_sold_out_sku(server: RedisSettings) -> None:
    """After a release the next batch sells the unit again, and reports sold out under the higher epoch."""
    async with script_sale(server, stock=1) as sale:
        first = await sale.ask(sale.order("ann"))
        await release(sale.channel, sale.id, sale.order("ann").digest, "ann", 1)
        second = await sale.ask(sale.order("ben"), sale.order("cid"))
        assert [outcome for outcome, _ in second.decisions] == [ACCEPTED, Outcome.SOLD_OUT]
        assert second.sold_out[SKU] > first.sold_out[SKU]


async def test_topup_adds_once_per_key(server: RedisSettings) -> None:
    """A top-up asked many times with one key adds its units once and raises the epoch; another needs its own key."""
    async with script_sale(server, stock=5) as sale:
        before = await sale.line()
        said = await asyncio.gather(*(top_up(sale.channel, sale.id, SKU, 7, "a") for _ in range(20)))
        assert sorted(said) == sorted([(12, True), *[(12, False)] * 19])
        assert await sale.line() == before._replace(remaining=12, allocated=12, epoch=before.epoch + 1)
        assert await top_up(sale.channel, sale.id, SKU, 7, "b") == (19, True)


@pytest.mark.parametrize(
    ("sku", "units", "key", "why"),
    [
        (SKU, 8, "a", "was used for another top-up"),
        ("no-such", 7, "b", "there is no SKU"),
        (SKU, 0, "b", "not a number of units"),
        (SKU, -5, "b", "not a number of units"),
        (SKU, 1.5, "b", "not a number of units"),
        (SKU, STOCK_MAX, "b", "would have more than"),
        (SKU, 2**63, "b", "would have more than"),
    ],
)
async def test_topup_refusals_change_nothing(server: RedisSettings, sku: str, units: Any, key: str, why: str) -> None:
    """A reused key, an unknown SKU, a bad number of units, too many: refused, and nothing changes."""
    async with script_sale(server) as sale:
        await top_up(sale.channel, sale.id, SKU, 7, "a")
        before = await sale.dump()
        with pytest.raises(OperationRefusedError, match=why):
            await top_up(sale.channel, sale.id, sku, units, key)
        assert await sale.dump() == before


async def test_a_closed_campaign_gets_no_top_up(server: RedisSettings) -> None:
    """A top-up of a closed campaign is refused for good; one that was made before the close is answered as before."""
    async with script_sale(server, stock=5) as sale:
        await top_up(sale.channel, sale.id, SKU, 7, "a")
        await move_campaign(sale.channel, sale.id, "close")
        before = await sale.dump()
        with pytest.raises(TopUpRefusedError, match="is closed"):
            await top_up(sale.channel, sale.id, SKU, 7, "b")
        assert await top_up(sale.channel, sale.id, SKU, 7, "a") == (12, False)
        assert await sale.dump() == before


# -- withdrawing ---------------------------------------------------------------------------------------------------


async def test_withdrawal_takes_what_is_unsold_and_tells_all_of_it(server: RedisSettings) -> None:
    """Each SKU's rest is taken out once; what is told is all that ever was, asked by many or again after a release."""
    async with script_sale(server, stock=[(SKU, 5), ("bag", 3), ("cap", 0)], per_user=3) as sale:
        ann = sale.order("ann", quantity=3)
        assert await sale.outcomes(ann) == [ACCEPTED]
        await move_campaign(sale.channel, sale.id, "close")
        said = await asyncio.gather(*(withdraw(sale.channel, sale.id) for _ in range(10)))
        assert said == [{SKU: 2, "bag": 3}] * 10
        line = await sale.line()
        assert (line.remaining, line.taken, line.returned, line.allocated) == (0, 3, 0, 3)
        await release(sale.channel, sale.id, ann.digest, "ann", 1)
        assert await withdraw(sale.channel, sale.id) == {SKU: 5, "bag": 3}
        line = await sale.line()
        assert (line.remaining, line.taken, line.returned, line.allocated) == (0, 3, 3, 0)


async def test_withdrawals_that_are_refused_change_nothing(server: RedisSettings) -> None:
    """Not from a campaign that is open, unknown, fenced, or has a line that cannot be read."""
    async with script_sale(server, stock=[(SKU, 5), ("bag", 3)]) as sale:
        before = await sale.dump()
        with pytest.raises(NotClosedError):
            await withdraw(sale.channel, sale.id)
        with pytest.raises(OperationRefusedError, match="there is no campaign"):
            await withdraw(sale.channel, "no-such")
        assert await sale.dump() == before
        await move_campaign(sale.channel, sale.id, "close")
        run_id = await sale.channel.connect()
        await sale.set_fields(run_id="another")
        before = await sale.dump()
        with pytest.raises(FencedError):
            await withdraw(sale.channel, sale.id)
        assert await sale.dump() == before
        await sale.set_fields(run_id=run_id)
        await sale.client.hset(keys.stock(sale.id), "bag", "not a line")
        before = await sale.dump()
        with pytest.raises(PoisonRecordError, match="'bag'"):
            await withdraw(sale.channel, sale.id)
        assert await sale.dump() == before


# -- load and states -----------------------------------------------------------------------------------------------


async def test_loads_are_numbered(server: RedisSettings) -> None:
    """An older load than was seen changes nothing; the same one again, and a check, are no harm."""
    async with script_sale(server, stock=9) as sale:
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=20), load_no=3) == "updated"
        before = await sale.dump()
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=20), load_no=3) == "unchanged"
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=5), load_no=2) == "stale"
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=5), check_only=True) == "updated"
        assert await sale.dump() == before
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=20), load_no=4) == "unchanged"
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=5), load_no=3) == "stale"


async def test_a_refused_load_stays_refused(server: RedisSettings) -> None:
    """What was refused for units that were sold is refused under its number also when they have come back."""
    async with script_sale(server, stock=5, per_user=4) as sale:
        ann = sale.order("ann", quantity=4)
        assert await sale.outcomes(ann) == [ACCEPTED]
        lower = sale_file(sale.id, stock=3, per_user=4)
        for _ in range(2):
            with pytest.raises(OperationRefusedError, match=r"below the 4|refused before"):
                await load_campaign(sale.channel, lower, load_no=1)
            await release(sale.channel, sale.id, ann.digest, "ann", 1)
        assert (await sale.line()).allocated == 5
        assert await load_campaign(sale.channel, lower, load_no=2) == "updated"
        assert (await sale.line()).allocated == 3


async def test_a_lost_campaign_is_created_as_the_catalog_has_it(server: RedisSettings) -> None:
    """With what is allocated and withdrawn, closed if it was, and its gate closed; later files move it as ever."""
    async with script_sale(server, stock=9) as sale:
        for closed in (False, True):
            lost = sale_file(f"t-{secrets.token_hex(5)}", stock=[(SKU, 9), ("bag", 4)])
            done = await load_campaign(
                sale.channel,
                lost,
                gate_closed=True,
                load_no=7,
                standing={SKU: Standing(12, 2)},
                closed=closed,
            )
            assert done == "created"
            snapshot = await read_snapshot(sale.client, lost.id)
            assert snapshot is not None
            assert (snapshot.fields["state"], snapshot.fields["run_id"]) == ("closed" if closed else "loaded", "")
            assert [(line.allocated, line.remaining) for _, line in sorted(snapshot.stock.items())] == [
                (4, 4),
                (12, 12),
            ]
            with pytest.raises(FencedError):
                await withdraw(sale.channel, lost.id)
            await open_gate(sale.channel, lost.id, await sale.channel.connect())
            assert await load_campaign(sale.channel, sale_file(lost.id, stock=[(SKU, 10), ("bag", 4)])) == "stale"
            more = sale_file(lost.id, stock=[(SKU, 10), ("bag", 4)])
            assert await load_campaign(sale.channel, more, load_no=8) == "updated"
            snapshot = await read_snapshot(sale.client, lost.id)
            assert snapshot is not None
            assert snapshot.stock[SKU].allocated == 13
            if closed:
                assert await withdraw(sale.channel, lost.id) == {SKU: 15, "bag": 4}


async def test_loading_twice_changes_nothing(server: RedisSettings) -> None:
    """The same file again is `unchanged`, whatever has been sold and given back meanwhile."""
    async with script_sale(server, stock=9) as sale:
        assert await load_campaign(sale.channel, sale.campaign) == "unchanged"
        await sale.ask(sale.order("ann"), sale.order("ben"))
        await release(sale.channel, sale.id, sale.order("ben").digest, "ben", 1)
        before = await sale.dump()
        assert await load_campaign(sale.channel, sale.campaign) == "unchanged"
        assert await sale.dump() == before


async def test_the_same_file_takes_no_top_up_back(server: RedisSettings) -> None:
    """After a top-up the same file is `unchanged`, and a changed one moves the stock by what it has changed."""
    async with script_sale(server, stock=9) as sale:
        await top_up(sale.channel, sale.id, SKU, 5, "more")
        assert await load_campaign(sale.channel, sale.campaign) == "unchanged"
        assert (await sale.line()).allocated == 14
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=10)) == "updated"
        assert (await sale.line()).allocated == 15


async def test_a_closed_gate_lets_stock_be_raised_only(server: RedisSettings) -> None:
    """While recovery has not compared, a file that lowers stock is refused and changes nothing; it may raise it."""
    async with script_sale(server, stock=9) as sale:
        await sale.client.hset(keys.campaign(sale.id), "run_id", "the one before")
        before = await sale.dump()
        with pytest.raises(FencedError):
            await load_campaign(sale.channel, sale_file(sale.id, stock=1))
        assert await sale.dump() == before
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=11)) == "updated"
        assert await sale.client.hget(keys.campaign(sale.id), "run_id") == b"the one before"


async def test_stock_may_be_changed_down_to_what_is_sold(server: RedisSettings) -> None:
    """Stock follows the file up and down; below what is sold, or without a SKU, it is refused and nothing changes."""
    async with script_sale(server, stock=[(SKU, 9), ("bag", 9)], per_user=4) as sale:
        await sale.ask(sale.order("ann", quantity=4))
        epoch = (await sale.line()).epoch
        assert (
            await load_campaign(sale.channel, sale_file(sale.id, stock=[(SKU, 4), ("bag", 9)], per_user=4)) == "updated"
        )
        line = await sale.line()
        assert (line[:4], line.epoch) == ((0, 4, 0, 4), epoch)
        before = await sale.dump()
        for stock, why in [([(SKU, 3), ("bag", 9)], "below the 4 units"), ([("bag", 9)], "not in the file")]:
            with pytest.raises(OperationRefusedError, match=why):
                await load_campaign(sale.channel, sale_file(sale.id, stock=stock, per_user=4))
        # A refusal comes before any SKU is written, also those that stand before the one at fault.
        with pytest.raises(OperationRefusedError, match="below the 4 units"):
            await load_campaign(sale.channel, sale_file(sale.id, stock=[("bag", 50), (SKU, 3)], per_user=4))
        assert await sale.dump() == before
        more = sale_file(sale.id, stock=[(SKU, 20), ("bag", 9), ("new", 1)], per_user=4)
        assert await load_campaign(sale.channel, more) == "updated"
        line = await sale.line()
        assert (line[:4], line.epoch) == ((16, 4, 0, 20), epoch + 1)


async def test_check_only_writes_nothing(server: RedisSettings) -> None:
    """A load that only checks tells what it would do, for a new campaign too, and writes nothing."""
    async with script_sale(server) as sale:
        before = await sale.dump()
        assert await load_campaign(sale.channel, sale_file(sale.id, stock=500), check_only=True) == "updated"
        assert await sale.dump() == before
        unborn = sale_file(f"t-{secrets.token_hex(5)}")
        assert await load_campaign(sale.channel, unborn, check_only=True) == "created"
        assert await sale.client.exists(keys.campaign(unborn.id)) == 0
        assert not await sale.client.sismember(keys.CAMPAIGNS, unborn.id)


async def test_states_move_by_compare_and_set(server: RedisSettings) -> None:
    """Of ten who open at once one moves the state; what is not possible from a state is refused and changes nothing."""
    async with script_sale(server, opened=False) as sale:
        for verb in ("pause", "resume"):
            with pytest.raises(OperationRefusedError, match="possible only from"):
                await move_campaign(sale.channel, sale.id, verb)
        said = await asyncio.gather(*(move_campaign(sale.channel, sale.id, "open") for _ in range(10)))
        assert sorted(moved for _, moved in said) == [False] * 9 + [True]
        for verb, state in [("pause", "paused"), ("resume", "open"), ("close", "closed")]:
            assert await move_campaign(sale.channel, sale.id, verb) == (state, True)
        for verb in ("open", "pause", "resume", "close"):
            with pytest.raises(OperationRefusedError, match="is closed"):
                await move_campaign(sale.channel, sale.id, verb)
        with pytest.raises(OperationRefusedError, match="load its file first"):
            await move_campaign(sale.channel, "no-such", "open")


# -- restore -------------------------------------------------------------------------------------------------------


def lost(sale: ScriptSale, user: str, quantity: int = 1, *, held: bool = True, key: str = "k") -> LostOrder:
    """Return an order as Kafka and MySQL tell of it."""
    order = sale.order(user, key, quantity)
    return LostOrder(order.digest, order.fingerprint, SKU, quantity, user, user_hash(user), hold_no=1, held=held)


async def test_restore_puts_back_what_is_missing_once(server: RedisSettings) -> None:
    """Orders that Redis has lost come back with their holds, once however often; then they are replayed."""
    async with script_sale(server, stock=10, per_user=9) as sale:
        assert await sale.outcomes(sale.order("ann")) == [ACCEPTED]
        newest = f"{(await sale.ask(sale.order('ann'))).now_us // 1_000 + 3_600_000}-3"
        missing = [
            lost(sale, "ann"),
            lost(sale, "ben", 2),
            lost(sale, "ben", 3, key="k2"),
            lost(sale, "cid", held=False),
        ]
        await sale.set_fields(run_id="another")
        assert await restore(sale.channel, sale.id, missing, newest) == 3
        line = await sale.line()
        assert (line.remaining, line.taken, line.returned, line.allocated) == (4, 7, 1, 10)
        before = await sale.dump()
        assert await restore(sale.channel, sale.id, missing, newest) == 0
        assert await restore(sale.channel, sale.id, missing, "1-1") == 0
        assert await sale.dump() == before
        with pytest.raises(FencedError):
            await sale.ask(sale.order("ben", quantity=2))
        run_id = await sale.channel.connect()
        assert await open_gate(sale.channel, sale.id, run_id)
        assert not await open_gate(sale.channel, sale.id, run_id)
        again = [sale.order("ann"), sale.order("ben", quantity=2), sale.order("ben", "k2", 3), sale.order("cid")]
        assert await sale.outcomes(*again) == [REPLAYED] * 4
        # Ids that Kafka knows are not handed out a second time, though they lie in the future.
        reply = await sale.ask(sale.order("dan"))
        assert tuple(map(int, reply.last_outbox_id.split("-"))) > tuple(map(int, newest.split("-")))
        log = (await sale.snapshot()).holders
        assert {order.user_hash for order in missing} <= {log[start : start + 8] for start in range(0, len(log), 8)}


async def test_restore_into_an_empty_outbox(server: RedisSettings) -> None:
    """With no stream at all the next entry's id is beyond what Kafka knows, and the chain of entries is whole."""
    async with script_sale(server) as sale:
        assert await restore(sale.channel, sale.id, [lost(sale, "ann")], "9000000000000-7") == 1
        reply = await sale.ask(sale.order("ben"))
        assert reply.last_outbox_id == "9000000000000-8"
        entries: Any = await sale.client.xrange(keys.outbox(sale.id))
        assert [(name, fields[b"p"]) for name, fields in entries] == [
            (b"9000000000000-7", b"0-0"),
            (b"9000000000000-8", b"9000000000000-7"),
        ]
        assert decode_entry(sale.id, "9000000000000-7", entries[0][1]) == []


async def test_restore_that_does_not_fit_changes_nothing(server: RedisSettings) -> None:
    """More lost units than remain, an unknown SKU, a corrupt record: refused as a whole."""
    async with script_sale(server, stock=3) as sale:
        await sale.client.set(keys.buyer(sale.id, "bad"), b"\xc1")
        before = await sale.dump()
        cases = [
            ([lost(sale, "ann", 2), lost(sale, "ben", 2)], "stock is short"),
            ([lost(sale, "ann"), lost(sale, "ben")._replace(sku_id="no-such")], "unknown SKU"),
            ([lost(sale, "ann"), lost(sale, "bad")], "corrupt"),
        ]
        for orders, why in cases:
            with pytest.raises(OperationRefusedError, match=why):
                await restore(sale.channel, sale.id, orders, "9000000000000-1")
            assert await sale.dump() == before


# -- the equation --------------------------------------------------------------------------------------------------

USERS, KEYS, SKUS = ["ann", "ben", "cid"], ["k1", "k2", "k3"], [SKU, "bag"]
PER_USER, ATTEMPTS_MAX, STOCK = 4, 3, 6

orders = st.tuples(
    st.sampled_from(USERS), st.sampled_from(KEYS), st.sampled_from([1, 2, 3, 5, 0, -5, 1.5]), st.sampled_from(SKUS)
)
steps = st.one_of(
    st.tuples(st.just("ask"), st.lists(orders, min_size=1, max_size=6)),
    st.tuples(st.just("release"), st.tuples(st.sampled_from(USERS), st.sampled_from(KEYS))),
    st.tuples(st.just("topup"), st.tuples(st.sampled_from(SKUS), st.integers(1, 3), st.sampled_from(["a", "b"]))),
    st.tuples(st.just("load"), st.integers(0, 12)),
    st.tuples(st.just("restore"), st.tuples(st.sampled_from(USERS), st.sampled_from(KEYS), st.booleans())),
)


@dataclass
class Known:
    """One order as the model has it."""

    quantity: float
    sku: str
    held: bool


@dataclass
class Model:
    """What the scripts should do, written down a second time."""

    remaining: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKUS, STOCK))
    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKUS, 0))
    returned: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKUS, 0))
    allocated: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKUS, STOCK))
    in_file: int = STOCK
    known: dict[tuple[str, str], Known] = field(default_factory=dict)
    topups: dict[str, tuple[str, int]] = field(default_factory=dict)

    def ask(self, user: str, key: str, quantity: float, sku: str) -> Outcome:
        """Decide one order."""
        if quantity not in range(1, 1_001):
            return Outcome.INVALID_QUANTITY
        before = self.known.get((user, key))
        if before is not None:
            return REPLAYED if (before.quantity, before.sku) == (quantity, sku) else Outcome.KEY_REUSED
        mine = [one for (who, _), one in self.known.items() if who == user]
        held = sum(one.quantity for one in mine if one.held and one.sku == sku)
        if len(mine) >= ATTEMPTS_MAX or held + quantity > PER_USER:
            return Outcome.LIMIT_REACHED
        if self.remaining[sku] < quantity:
            return Outcome.SOLD_OUT
        self.put(user, key, int(quantity), sku, held=True)
        return ACCEPTED

    def put(self, user: str, key: str, quantity: int, sku: str, *, held: bool) -> None:
        """Note an order that takes stock, and gives it back unless it is held."""
        self.known[user, key] = Known(quantity, sku, held)
        self.taken[sku] += quantity
        if held:
            self.remaining[sku] -= quantity
        else:
            self.returned[sku] += quantity

    def release(self, user: str, key: str) -> ReleaseOutcome:
        """Give back what an order holds."""
        one = self.known.get((user, key))
        if one is None:
            return ReleaseOutcome.NO_SUCH_HOLD
        if not one.held:
            return ALREADY
        one.held = False
        self.remaining[one.sku] += int(one.quantity)
        self.returned[one.sku] += int(one.quantity)
        return RELEASED

    def top_up(self, sku: str, units: int, key: str) -> bool | None:
        """Add units once; None: the key was used for another one."""
        if key in self.topups:
            return False if self.topups[key] == (sku, units) else None
        self.topups[key] = (sku, units)
        self.remaining[sku] += units
        self.allocated[sku] += units
        return True

    def load(self, stock: int) -> bool:
        """Move what is allocated to every SKU by what the file has changed; False: less than is sold."""
        moved = stock - self.in_file
        if any(self.allocated[sku] + moved < self.taken[sku] - self.returned[sku] for sku in SKUS):
            return False
        for sku in SKUS:
            self.remaining[sku] += moved
            self.allocated[sku] += moved
        self.in_file = stock
        return True

    def restore(self, user: str, key: str, *, held: bool) -> int | None:
        """Put one unit of a lost order back, or give back what a known one holds; None: it does not fit."""
        if (user, key) in self.known:
            return int(not held and self.release(user, key) is RELEASED)
        if held and self.remaining[SKU] < 1:
            return None
        self.put(user, key, 1, SKU, held=held)
        return 1


async def take(sale: ScriptSale, model: Model, verb: str, args: Any) -> None:
    """Do one step in Redis and in the model, and compare what they say."""
    if verb == "ask":
        made = [sale.order(user, key, quantity, sku) for user, key, quantity, sku in args]
        assert await sale.outcomes(*made, attempts_max=ATTEMPTS_MAX) == [model.ask(*one) for one in args]
    elif verb == "release":
        said = await release(sale.channel, sale.id, sale.order(*args).digest, args[0], 1)
        assert said is model.release(*args)
    elif verb == "topup":
        expected = model.top_up(*args)
        with pytest.raises(OperationRefusedError) if expected is None else contextlib.nullcontext():
            assert (await top_up(sale.channel, sale.id, *args))[1] is expected
    elif verb == "load":
        fits = model.load(args)
        with contextlib.nullcontext() if fits else pytest.raises(OperationRefusedError):
            await load_campaign(sale.channel, equation_file(sale.id, args))
    else:
        user, key, held = args
        count = model.restore(user, key, held=held)
        with pytest.raises(OperationRefusedError) if count is None else contextlib.nullcontext():
            assert await restore(sale.channel, sale.id, [lost(sale, user, held=held, key=key)], "1-1") == count


def equation_file(campaign_id: str, stock: int) -> Any:
    """Return the campaign of the equation's test."""
    return sale_file(campaign_id, stock=[(sku, stock) for sku in SKUS], per_user=PER_USER)


async def assert_equation(sale: ScriptSale, model: Model) -> None:
    """Assert invariant A, that the numbers are the model's, and that they are the sums over the buyers' records."""
    snapshot = await sale.snapshot()
    attempts = [attempt for user in USERS for attempt in await sale.attempts(user)]
    for sku, line in snapshot.stock.items():
        assert line.allocated == line.remaining + line.taken - line.returned
        assert min(line.remaining, line.taken, line.returned) >= 0
        numbers = (model.remaining[sku], model.taken[sku], model.returned[sku], model.allocated[sku])
        assert line[:4] == numbers
        mine = [attempt for attempt in attempts if attempt.sku_id == sku]
        assert line.taken == sum(attempt.quantity for attempt in mine)
        assert line.returned == sum(attempt.quantity for attempt in mine if not attempt.held)


@given(taken=st.lists(steps, max_size=25))
@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_equation_holds_after_every_step(server: RedisSettings, taken: list[tuple[str, Any]]) -> None:
    """Whatever is done in whatever order: allocated = remaining + taken - returned after every step.

    And the scripts answer what a model of a few lines of Python answers, each counter is the sum of the buyers'
    attempts, and what the model refuses leaves the numbers alone.
    """
    async with script_sale(server, stock=[(sku, STOCK) for sku in SKUS], per_user=PER_USER) as sale:
        model = Model()
        for verb, args in taken:
            await take(sale, model, verb, args)
            await assert_equation(sale, model)
