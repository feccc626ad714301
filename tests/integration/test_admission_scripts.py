"""`admit_orders.lua` on a real Redis: replay, limits, buckets, stock, window, fence, and errors in the middle."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from adapters.campaign_stock import move_campaign, top_up
from adapters.holds import release
from adapters.redis import ScriptChannel
from adapters.stock import BatchReply, admit
from domain import keys
from domain.errors import BackendError, FencedError
from domain.outbox import decode_entry
from domain.outcomes import Outcome, ReleaseOutcome
from domain.settings import RedisSettings
from tests.support.scripts import FAST, TOKEN_U, ScriptSale, private_redis, script_sale
from tests.support.shop import SKU

ACCEPTED, REPLAYED, SOLD_OUT = Outcome.ACCEPTED, Outcome.REPLAYED, Outcome.SOLD_OUT
LIMIT, RATE, USER_RATE = Outcome.LIMIT_REACHED, Outcome.RATE_LIMITED, Outcome.USER_RATE_LIMITED

SLOW_USERS = FAST.replace("user_per_s = 1000000\nuser_burst = 1000000", "user_per_s = 1\nuser_burst = 60")

pack = msgspec.msgpack.encode


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisSettings]:
    """Return a private Redis."""
    async with private_redis(tmp_path_factory.mktemp("redis")) as settings:
        yield settings


async def bucket(sale: ScriptSale) -> tuple[int, int]:
    """Return the campaign's bucket: millionths of tokens, and microseconds of the last refill."""
    fields = (await sale.snapshot()).fields
    return int(fields["tokens_u"]), int(fields["refilled_us"])


# -- replay --------------------------------------------------------------------------------------------------------


async def test_replay_in_the_same_batch_and_later(server: RedisSettings) -> None:
    """The same order again, in one batch or a later one, is REPLAYED and takes nothing."""
    async with script_sale(server, per_user=5) as sale:
        ann = sale.order("ann")
        assert await sale.outcomes(ann, ann, sale.order("ben"), ann) == [ACCEPTED, REPLAYED, ACCEPTED, REPLAYED]
        before = await sale.dump()
        assert await sale.outcomes(ann, sale.order("ben")) == [REPLAYED, REPLAYED]
        assert await sale.dump() == before
        assert (await sale.line())[:3] == (98, 2, 0)


async def test_replay_comes_before_every_refusal(server: RedisSettings) -> None:
    """An accepted order is replayed when sold out, paused, closed, rate limited, or the outbox is full.

    Guards the order of the script's decisions: the buyer's record is read before anything is refused.
    """
    async with script_sale(server, stock=1, limits=FAST.replace("admit_burst = 1000000", "admit_burst = 1")) as sale:
        ann = sale.order("ann")
        assert await sale.outcomes(ann) == [ACCEPTED]
        assert await sale.outcomes(sale.order("ben"), sale.order("cid"), ann) == [SOLD_OUT, RATE, REPLAYED]
        assert await sale.outcomes(sale.order("cid"), ann, outbox_max=1) == [Outcome.OUTBOX_FULL, REPLAYED]
        await sale.set_fields(opens_ms=1 << 50)
        assert await sale.outcomes(sale.order("dan"), ann) == [Outcome.NOT_STARTED, REPLAYED]
        for verb, refusal in [("pause", Outcome.PAUSED), ("close", Outcome.ENDED)]:
            await sale.set_fields(opens_ms=0)
            await move_campaign(sale.channel, sale.id, verb)
            assert await sale.outcomes(sale.order("eve"), ann) == [refusal, REPLAYED]


async def test_key_reused_with_another_payload(server: RedisSettings) -> None:
    """A key that stands for an order refuses another quantity and another SKU, also within one batch."""
    async with script_sale(server, per_user=5, stock=[(SKU, 9), ("bag", 9)]) as sale:
        first, other = sale.order("ann"), sale.order("ann", quantity=2)
        assert await sale.outcomes(first, other, first) == [ACCEPTED, Outcome.KEY_REUSED, REPLAYED]
        before = await sale.dump()
        assert await sale.outcomes(sale.order("ann", sku="bag")) == [Outcome.KEY_REUSED]
        assert await sale.dump() == before


async def test_refusals_are_not_remembered(server: RedisSettings) -> None:
    """A key that was refused may succeed later, with any payload."""
    async with script_sale(server, stock=1, per_user=5) as sale:
        assert await sale.outcomes(sale.order("ann", quantity=2)) == [SOLD_OUT]
        assert await sale.outcomes(sale.order("ann", quantity=1)) == [ACCEPTED]


# -- limits and stock ----------------------------------------------------------------------------------------------


async def test_purchase_limit_is_cumulative(server: RedisSettings) -> None:
    """`per_user` counts all units that a buyer holds: within a batch, over batches, and not what he gave back."""
    async with script_sale(server, per_user=3) as sale:
        batch = [sale.order("ann", "a", 2), sale.order("ann", "b", 2), sale.order("ann", "c"), sale.order("ann", "d")]
        assert await sale.outcomes(*batch) == [ACCEPTED, LIMIT, ACCEPTED, LIMIT]
        assert await sale.outcomes(sale.order("ann", "e")) == [LIMIT]
        assert await release(sale.channel, sale.id, batch[2].digest, "ann", 1) is ReleaseOutcome.RELEASED
        assert await sale.outcomes(sale.order("ann", "f"), sale.order("ann", "g")) == [ACCEPTED, LIMIT]
        assert (await sale.line())[:3] == (97, 4, 1)


async def test_attempts_are_bounded(server: RedisSettings) -> None:
    """A buyer's record keeps at most `attempts_max` attempts, over all SKUs; one that holds stock is never dropped."""
    async with script_sale(server, per_user=9, stock=[(SKU, 9), ("bag", 9)]) as sale:
        mine = [sale.order("ann", "a"), sale.order("ann", "b", sku="bag"), sale.order("ann", "c")]
        assert await sale.outcomes(*mine, attempts_max=2) == [ACCEPTED, ACCEPTED, LIMIT]
        assert await sale.outcomes(*mine, attempts_max=2) == [REPLAYED, REPLAYED, LIMIT]
        assert [attempt.held for attempt in await sale.attempts("ann")] == [True, True]


async def test_stock_is_planned_cumulatively(server: RedisSettings) -> None:
    """Orders of one batch take from what those before them have left; one that does not fit blocks nobody."""
    async with script_sale(server, stock=3, per_user=3) as sale:
        reply = await sale.ask(sale.order("ann", quantity=2), sale.order("ben", quantity=2), sale.order("cid"))
        assert [outcome for outcome, _ in reply.decisions] == [ACCEPTED, SOLD_OUT, ACCEPTED]
        line = await sale.line()
        assert line[:3] == (0, 3, 0)
        assert reply.sold_out == {SKU: line.epoch}


async def test_fifty_callers_sell_exactly_the_stock(server: RedisSettings) -> None:
    """50 concurrent callers over 10 connections, 400 orders for 97 units: exactly 97 are accepted."""
    async with script_sale(server, stock=97) as sale, contextlib.AsyncExitStack() as closing:
        channels = [ScriptChannel(server) for _ in range(10)]
        for channel in channels:
            closing.push_async_callback(channel.close)
        replies = await asyncio.gather(
            *(
                sale.outcomes(*(sale.order(f"b-{caller}-{one}") for one in range(8)), channel=channels[caller % 10])
                for caller in range(50)
            )
        )
        said = [outcome for outcomes in replies for outcome in outcomes]
        assert (said.count(ACCEPTED), said.count(SOLD_OUT)) == (97, 303)
        line = await sale.line()
        assert (line.remaining, line.taken, line.allocated) == (0, 97, 97)
        entries: Any = await sale.client.xrange(keys.outbox(sale.id))
        events = [event for outbox_id, fields in entries for event in decode_entry(sale.id, outbox_id.decode(), fields)]
        assert len({event.order_id for event in events}) == len(events) == 97
        assert len((await sale.snapshot()).holders) == 8 * 97


async def test_one_buyer_from_many_connections_gets_his_limit(server: RedisSettings) -> None:
    """One buyer with 40 keys on 10 connections at once gets exactly `per_user` units."""
    async with script_sale(server, per_user=3) as sale, contextlib.AsyncExitStack() as closing:
        channels = [ScriptChannel(server) for _ in range(10)]
        for channel in channels:
            closing.push_async_callback(channel.close)
        said = await asyncio.gather(
            *(sale.outcomes(sale.order("ann", f"k-{n}"), channel=channels[n % 10]) for n in range(40))
        )
        assert (said.count([ACCEPTED]), said.count([LIMIT])) == (3, 37)


async def test_outbox_entry_tells_the_batch(server: RedisSettings) -> None:
    """One entry a batch, with the accepted orders in their order; the reply names it, and the holders' log grows."""
    async with script_sale(server, stock=2, per_user=2) as sale:
        orders = [sale.order("ann"), sale.order("ben", quantity=2), sale.order("cid")]
        reply = await sale.ask(*orders)
        entries: Any = await sale.client.xrange(keys.outbox(sale.id))
        assert [outbox_id.decode() for outbox_id, _ in entries] == [reply.last_outbox_id]
        events = decode_entry(sale.id, reply.last_outbox_id, entries[0][1])
        assert [(event.user_id, event.order_id, event.quantity, event.outbox_index) for event in events] == [
            (order.user_id, f"{sale.id}~{order.digest}", 1, index) for index, order in enumerate((orders[0], orders[2]))
        ]
        assert {event.unit_price_cents for event in events} == {5_900}
        assert events[0].accepted_at_ms == reply.now_us // 1_000
        snapshot = await sale.snapshot()
        assert snapshot.holders == orders[0].user_hash + orders[2].user_hash
        assert reply.holders_length == len(snapshot.holders)
        assert (await sale.ask(orders[0])).last_outbox_id == reply.last_outbox_id


# -- buckets -------------------------------------------------------------------------------------------------------


async def passes_as_counted(sale: ScriptSale, users: list[str], *, per_s: int, burst: int, limited: Outcome) -> None:
    """Ask batch after batch until a burst and a half has come in, and hold every reply against whole numbers.

    The bucket is counted along in millionths of a token, by the time of Redis that each reply tells.
    """
    tokens_u, at_us, passed, came_in_u, number = burst * TOKEN_U, 0, 0, 0, 0
    while came_in_u < 3 * burst * TOKEN_U // 2:
        reply: BatchReply = await sale.ask(
            *(sale.order(user, f"k-{number}-{one}") for one, user in enumerate(users)), attempts_max=60_000
        )
        number += 1
        refill_u = per_s * (reply.now_us - at_us) if at_us else 0
        came_in_u, tokens_u, at_us = came_in_u + refill_u, min(burst * TOKEN_U, tokens_u + refill_u), reply.now_us
        outcomes = [outcome for outcome, _ in reply.decisions]
        through = len(outcomes) - outcomes.count(limited)
        assert through == min(len(users), tokens_u // TOKEN_U)
        tokens_u, passed = tokens_u - through * TOKEN_U, passed + through
    assert passed <= burst + came_in_u / TOKEN_U


async def test_campaign_bucket_is_exact(server: RedisSettings) -> None:
    """What passes is exactly the burst plus the whole tokens that Redis's clock has added since the first order."""
    limits = FAST.replace("admit_per_s = 1000000\nadmit_burst = 1000000", "admit_per_s = 700\nadmit_burst = 140")
    async with script_sale(server, stock=100_000, limits=limits) as sale:
        users = [f"b-{one}" for one in range(150)]
        await passes_as_counted(sale, users, per_s=700, burst=140, limited=RATE)
        refused = await sale.outcomes(*(sale.order(f"c-{one}") for one in range(150)))
        assert refused.count(RATE) >= 10


async def test_user_bucket_is_exact(server: RedisSettings) -> None:
    """What passes of one buyer's orders is exactly his burst plus the whole tokens added since the first."""
    limits = FAST.replace("user_per_s = 1000000\nuser_burst = 1000000", "user_per_s = 70\nuser_burst = 14")
    async with script_sale(server, stock=100_000, limits=limits, per_user=1_000) as sale:
        await passes_as_counted(sale, ["ann"] * 20, per_s=70, burst=14, limited=USER_RATE)


async def test_wait_is_the_time_to_the_next_token(server: RedisSettings) -> None:
    """A rate-limited order is told the milliseconds until a token is there: at 1 a second, at most 1,000."""
    async with script_sale(server, limits="admit_per_s = 1\nadmit_burst = 1\nuser_per_s = 1\nuser_burst = 1") as sale:
        reply = await sale.ask(sale.order("ann"), sale.order("ben"), sale.order("ann", "again"))
        assert reply.decisions == [(ACCEPTED, 0), (RATE, 1_000), (USER_RATE, 1_000)]


async def test_replay_takes_no_token(server: RedisSettings) -> None:
    """With one token in both buckets, an order and nine replays of it pass, and later ones leave every byte."""
    async with script_sale(server, limits="admit_per_s = 1\nadmit_burst = 1\nuser_per_s = 1\nuser_burst = 1") as sale:
        ann = sale.order("ann")
        assert await sale.outcomes(*[ann] * 10) == [ACCEPTED, *[REPLAYED] * 9]
        before = await sale.dump()
        assert await sale.outcomes(*[ann] * 10) == [REPLAYED] * 10
        assert await sale.dump() == before


async def test_a_token_is_taken_from_both_buckets_or_from_none(server: RedisSettings) -> None:
    """One refused by the campaign's bucket keeps his own token; one refused by his own takes none of the campaign's."""
    slow = "admit_per_s = 1\nadmit_burst = 2\nuser_per_s = 1\nuser_burst = 1"
    async with script_sale(server, limits=slow, per_user=9) as sale:
        batch = [sale.order("ann", "a"), sale.order("ann", "b"), sale.order("ann", "c"), sale.order("ben")]
        # Ann's second and third order cost the campaign nothing, so that its second token is there for Ben.
        assert await sale.outcomes(*batch, sale.order("cid")) == [ACCEPTED, USER_RATE, USER_RATE, ACCEPTED, RATE]
        assert (await bucket(sale))[0] == 0
        assert await sale.client.exists(keys.buyer(sale.id, "cid")) == 0


async def test_refusal_by_stock_takes_tokens_and_leaves_a_record_that_expires(server: RedisSettings) -> None:
    """Sold out costs a token, so that it cannot be asked without end; the record with the bucket alone expires."""
    async with script_sale(server, stock=1, limits=SLOW_USERS) as sale:
        first, _ = await sale.outcomes(sale.order("ann"), sale.order("ben"))
        assert first is ACCEPTED
        assert await sale.client.pttl(keys.buyer(sale.id, "ann")) == -1
        assert 0 < await sale.client.pttl(keys.buyer(sale.id, "ben")) <= 61_000
        assert await sale.attempts("ben") == []


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quantity", [-5, 0, 0.5, 1.5, 1_001, 2**63, -(2**63), float("nan"), float("inf"), True, "1", None]
)
async def test_script_refuses_bad_quantities_itself(server: RedisSettings, quantity: Any) -> None:
    """Fault 42: whatever is no whole number from 1 to 1,000 is refused in the script, and nothing changes.

    Guards the check in Lua: without it a negative quantity raises stock. The rest of the batch is decided.
    """
    async with script_sale(server, stock=2_000, per_user=1_000) as sale:
        before = await sale.dump()
        assert await sale.outcomes(sale.order("ann", "bad", quantity)) == [Outcome.INVALID_QUANTITY]
        assert await sale.dump() == before
        both = await sale.outcomes(sale.order("ann", "bad", quantity), sale.order("ann", quantity=1_000))
        assert both == [Outcome.INVALID_QUANTITY, ACCEPTED]
        assert (await sale.line())[:3] == (1_000, 1_000, 0)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"garbage",
        pack("text"),
        pack([1, 2]),
        pack([False, False, "x"]),
        pack([False, False, [1]]),
        pack([False, False, [["a", "b", "box", "many", 1, 1]]]),
        pack([False, False, [["a", "b", "box", 1, None, 1]]]),
        pack(["x", "y", []]),
        pack([False, False, [["a", "b", "box", 1, 1, 1]]])[:-3],
    ],
)
async def test_corrupt_record_refuses_its_own_order_only(server: RedisSettings, packed: bytes) -> None:
    """A buyer's record that cannot be read refuses his order and stays as it is; the rest of the batch is decided."""
    async with script_sale(server) as sale:
        name = keys.buyer(sale.id, "ann")
        await sale.client.set(name, packed)
        assert await sale.outcomes(sale.order("ann"), sale.order("ben")) == [Outcome.CORRUPT_RECORD, ACCEPTED]
        assert await sale.client.get(name) == packed
        assert (await sale.line())[:3] == (99, 1, 0)


async def test_window_and_states(server: RedisSettings) -> None:
    """Loaded, before the window, paused, after the window, closed: each has its own refusal and changes nothing."""
    async with script_sale(server, opened=False) as sale:
        past, future = 1_000, 1 << 50
        cases = [
            ("loaded", past, future, Outcome.NOT_STARTED),
            ("loaded", past, past, Outcome.ENDED),
            ("open", future, future, Outcome.NOT_STARTED),
            ("open", past, past, Outcome.ENDED),
            ("paused", past, future, Outcome.PAUSED),
            ("paused", future, future, Outcome.NOT_STARTED),
            ("paused", past, past, Outcome.ENDED),
            ("closed", past, future, Outcome.ENDED),
        ]
        for state, opens_ms, closes_ms, expected in cases:
            await sale.set_fields(state=state, opens_ms=opens_ms, closes_ms=closes_ms)
            before = await sale.dump()
            assert await sale.outcomes(sale.order("ann")) == [expected], (state, opens_ms, closes_ms)
            assert await sale.dump() == before
        await sale.set_fields(state="open", opens_ms=past, closes_ms=future)
        assert await sale.outcomes(sale.order("ann")) == [ACCEPTED]


async def test_unknown_sku_and_unknown_campaign(server: RedisSettings) -> None:
    """An unknown SKU, and one whose stock line cannot be read, refuses its order; an unknown campaign the call."""
    async with script_sale(server, stock=[(SKU, 5), ("bag", 5)]) as sale:
        await sale.client.hset(keys.stock(sale.id), "bag", "5 0 0 five 1 1 1")
        batch = [sale.order("ann", sku="no-such"), sale.order("ben", sku="bag"), sale.order("cid")]
        assert await sale.outcomes(*batch) == [Outcome.UNKNOWN_SKU, Outcome.CORRUPT_RECORD, ACCEPTED]
        assert await sale.client.hget(keys.stock(sale.id), "bag") == b"5 0 0 five 1 1 1"
        with pytest.raises(BackendError, match="UNKNOWN_CAMPAIGN"):
            await admit(sale.channel, "no-such", [sale.order("ann")], attempts_max=8, outbox_max=10)


async def test_fence_refuses_everything_that_moves_stock(server: RedisSettings) -> None:
    """With another run id stored than the connection's, admission, release and top-up are FENCED and nothing changes.

    Guards the fence: after a restart Redis may have lost orders that Kafka and MySQL hold.
    """
    async with script_sale(server) as sale:
        ann = sale.order("ann")
        assert await sale.outcomes(ann) == [ACCEPTED]
        for run_id in ("", "0" * 40):
            await sale.set_fields(run_id=run_id)
            before = await sale.dump()
            for refused in (
                sale.ask(ann),
                sale.ask(sale.order("ben")),
                release(sale.channel, sale.id, ann.digest, "ann", 1),
                top_up(sale.channel, sale.id, SKU, 5, "more"),
            ):
                with pytest.raises(FencedError):
                    await refused
            assert await sale.dump() == before
        await sale.set_fields(run_id=sale.channel.run_id)
        assert await sale.outcomes(ann) == [REPLAYED]


async def test_outbox_full(server: RedisSettings) -> None:
    """While the relay is too far behind, orders are refused and nothing changes; replays are answered."""
    async with script_sale(server) as sale:
        assert await sale.outcomes(sale.order("ann"), outbox_max=2) == [ACCEPTED]
        assert await sale.outcomes(sale.order("ben"), outbox_max=2) == [ACCEPTED]
        before = await sale.dump()
        batch = [sale.order("cid"), sale.order("ann")]
        assert await sale.outcomes(*batch, outbox_max=2) == [Outcome.OUTBOX_FULL, REPLAYED]
        assert await sale.dump() == before
        await sale.client.xtrim(keys.outbox(sale.id), maxlen=1, approximate=False)
        assert await sale.outcomes(*batch, outbox_max=2) == [ACCEPTED, REPLAYED]


# -- errors in the middle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [keys.outbox, keys.holders, keys.stock, keys.campaign])
async def test_wrong_type_leaves_everything_as_it_was(server: RedisSettings, key: Any) -> None:
    """Fault 9: a key of the wrong type makes the call fail; every key is byte by byte as it was.

    Guards that all keys are read before the first write, for Redis does not roll back.
    """
    async with script_sale(server) as sale:
        assert await sale.outcomes(sale.order("ann")) == [ACCEPTED]
        name = key(sale.id)
        kept: Any = await sale.client.dump(name)
        await sale.client.delete(name)
        await sale.client.sadd(name, "not what it should be")
        before = await sale.dump()
        with pytest.raises(BackendError, match="WRONGTYPE"):
            await sale.ask(sale.order("ben"), sale.order("ann", "another"))
        assert await sale.dump() == before
        await sale.client.restore(name, 0, kept, replace=True)
        assert await sale.outcomes(sale.order("ann"), sale.order("ben")) == [REPLAYED, ACCEPTED]


async def test_flushed_script_is_loaded_again(server: RedisSettings) -> None:
    """Fault 8: after SCRIPT FLUSH the next call of every script works, and runs once.

    Guards the reload on NOSCRIPT.
    """
    async with script_sale(server, per_user=5) as sale:
        ann = sale.order("ann")
        assert await sale.outcomes(ann) == [ACCEPTED]
        await sale.client.script_flush()
        assert await sale.outcomes(sale.order("ann", "more"), ann) == [ACCEPTED, REPLAYED]
        await sale.client.script_flush()
        assert await top_up(sale.channel, sale.id, SKU, 5, "more") == (105, True)
        await sale.client.script_flush()
        assert await release(sale.channel, sale.id, ann.digest, "ann", 1) is ReleaseOutcome.RELEASED
        assert (await sale.line())[:4] == (104, 2, 1, 105)


async def test_clock_that_steps_back_adds_and_takes_nothing(server: RedisSettings) -> None:
    """After a step back of Redis's clock a bucket keeps what it has, refills from now on, and never overflows.

    Redis's own clock is meant: a virtual machine that is moved may step back.
    """
    limits = FAST.replace("admit_per_s = 1000000\nadmit_burst = 1000000", "admit_per_s = 5\nadmit_burst = 5")
    async with script_sale(server, limits=limits) as sale:
        future = (await sale.ask(sale.order("ann"))).now_us + 3_600 * TOKEN_U
        await sale.set_fields(tokens_u=2 * TOKEN_U, refilled_us=future)
        said = await sale.outcomes(*(sale.order(f"b-{one}") for one in range(4)))
        assert said == [ACCEPTED, ACCEPTED, RATE, RATE]
        tokens_u, refilled_us = await bucket(sale)
        assert tokens_u < TOKEN_U
        assert refilled_us < future
        await sale.set_fields(tokens_u=99 * TOKEN_U)
        assert (await sale.outcomes(*(sale.order(f"c-{one}") for one in range(9)))).count(ACCEPTED) == 5
