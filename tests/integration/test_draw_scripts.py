"""`draw_prize.lua` and what else moves a lottery, on a real Redis."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from adapters.campaign_stock import Standing, load_campaign, move_campaign, top_up, withdraw
from adapters.draws import draw, lottery_fields, move_lottery, restore_draws
from adapters.holds import release, return_duplicate
from adapters.stock import open_gate
from domain import keys
from domain.draw_events import DrawLog
from domain.errors import BackendError, FencedError, OperationRefusedError
from domain.lottery import Drawn, number_of, parse_line, pick
from domain.order import fingerprint
from domain.outcomes import DuplicateOutcome, Outcome, ReleaseOutcome
from domain.settings import RedisSettings
from tests.support.lotteries import Kind, ScriptLottery, script_lottery, verdict_of
from tests.support.scripts import private_redis, script_sale


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisSettings]:
    """Return a Redis of our own."""
    async with private_redis(tmp_path_factory.mktemp("redis")) as settings:
        yield settings


async def test_script_and_python_draw_alike(server: RedisSettings) -> None:
    """What the script wins is what the number wins that anybody can compute, while prizes run out."""
    kinds = [Kind("a", 3, 500_000, 1), Kind("b", 2, 999_999, 2), Kind("c", 4, 7, 3)]
    async with script_lottery(server, kinds=kinds, no_prize_weight=400_000, draws_per_user=3) as lottery:
        left, weights = [kind.stock for kind in kinds], [kind.weight for kind in kinds]
        for number in range(20):
            request = lottery.request(f"u-{number % 7}", f"k-{number}")
            (one,) = (await lottery.draw(request)).decisions
            place = pick(number_of(request.secret, number // 7 + 1), weights, left, 400_000)
            assert place is not None
            assert (one.prize.sku_id if one.prize else "") == ([*kinds, Kind("", 0, 0, 0)][place].sku_id)
            if place >= 0:
                left[place] -= 1


async def test_replay_answers_the_same(server: RedisSettings) -> None:
    """The same key answers the same draw: in the same batch, later, sold out, and after the end; nothing moves."""
    kinds = [Kind("a", 2, 10, 5)]
    async with script_lottery(server, kinds=kinds, no_prize_weight=0, draws_per_user=2) as lottery:
        ann, ben = lottery.request("ann"), lottery.request("ben")
        first = (await lottery.draw(ann, ann, ben, ann)).decisions
        assert [one.outcome for one in first] == [
            Outcome.ACCEPTED, Outcome.REPLAYED, Outcome.ACCEPTED, Outcome.REPLAYED,
        ]  # fmt: skip
        assert first[0][1:] == first[1][1:] == first[3][1:]
        before = await lottery.dump()
        more = await lottery.draw(ann, lottery.request("ann", "second"), lottery.request("zoe"))
        assert [one.outcome for one in more.decisions] == [Outcome.REPLAYED, Outcome.SOLD_OUT, Outcome.SOLD_OUT]
        assert more.decisions[0][1:] == first[0][1:]
        assert more.sold_out == {"a": 2}
        await move_lottery(lottery.channel, lottery.id, "close")
        (late, refused) = (await lottery.draw(ben, lottery.request("eve"))).decisions
        assert (late.outcome, late[1:], refused.outcome) == (Outcome.REPLAYED, first[2][1:], Outcome.ENDED)
        after = await lottery.dump()
        unchanged = {keys.stock(lottery.id), keys.holders(lottery.id)}
        assert {name: after[name.encode()] for name in unchanged} == {name: before[name.encode()] for name in unchanged}


async def test_replay_out_of_a_long_entry(server: RedisSettings) -> None:
    """Each draw of a long batch, a buyer's second one too, is told its own line and the entry's hash, again."""
    async with script_lottery(server, kinds=[Kind("a", 90, 10, 5)], no_prize_weight=5, draws_per_user=2) as lottery:
        asked = [lottery.request(f"u-{number % 200}", f"k-{number // 200}") for number in range(300)]
        first = (await lottery.draw(*asked)).decisions
        assert [one.seq for one in first] == list(range(2, 302))
        assert [one.detail for one in first] == [1] * 200 + [2] * 100
        (log,) = [log for log in await lottery.log() if log.seq == 2]
        assert {one.hash for one in first} == {log.hash}
        await lottery.draw(lottery.request("zoe"))
        again = (await lottery.draw(*reversed(asked))).decisions
        assert [one[1:] for one in reversed(again)] == [one[1:] for one in first]
        assert {one.outcome for one in again} == {Outcome.REPLAYED}


async def test_ten_keys_at_once(server: RedisSettings) -> None:
    """A user with ten keys in one batch, and in ten calls at once, has exactly the draws he may have."""
    async with script_lottery(server, draws_per_user=3) as lottery:
        keys_ = [lottery.request("ann", f"k-{number}") for number in range(10)]
        together = [one.outcome for one in (await lottery.draw(*keys_)).decisions]
        assert Counter(together) == {Outcome.ACCEPTED: 3, Outcome.LIMIT_REACHED: 7}
        apart = await asyncio.gather(*(lottery.draw(lottery.request("ben", f"k-{number}")) for number in range(10)))
        assert Counter(one.decisions[0].outcome for one in apart) == {Outcome.ACCEPTED: 3, Outcome.LIMIT_REACHED: 7}
        mixed = [keys_[9], *keys_[:3]]
        outcomes = [one.outcome for one in (await lottery.draw(*mixed)).decisions]
        assert outcomes == [Outcome.LIMIT_REACHED, *[Outcome.REPLAYED] * 3]
        verdict = await lottery.verdict()
        assert (verdict.faults, verdict.draws) == ([], 6)


async def test_buckets_are_those_of_orders(server: RedisSettings) -> None:
    """The campaign's bucket holds for the batch and the buyer's for him; a refused draw is not counted as one."""
    limits = "admit_per_s = 1\nadmit_burst = 5\nuser_per_s = 1\nuser_burst = 2"
    async with script_lottery(server, draws_per_user=100, limits=limits) as lottery:
        asked = [lottery.request("ann", f"k-{number}") for number in range(4)]
        asked += [lottery.request(f"u-{number}") for number in range(4)]
        found = (await lottery.draw(*asked)).decisions
        assert [one.outcome for one in found] == [
            *[Outcome.ACCEPTED] * 2, *[Outcome.USER_RATE_LIMITED] * 2,
            *[Outcome.ACCEPTED] * 3, Outcome.RATE_LIMITED,
        ]  # fmt: skip
        assert {one.detail for one in found if one.outcome < 0} <= set(range(900, 1_001))
        assert (await lottery.verdict()).draws == 5


@pytest.mark.parametrize("broken", [b"not a record", b"\x94\xc2\xc2\x90\xa1x", b"\x94\xc2\xc2\x90\x91\xa5short"])
async def test_a_corrupt_record_refuses_its_own_draw_only(server: RedisSettings, broken: bytes) -> None:
    """A record that cannot be read refuses that buyer's draw and stays as it is; the batch goes on."""
    async with script_lottery(server) as lottery:
        name = keys.buyer(lottery.id, "ann")
        await lottery.client.set(name, broken)
        found = await lottery.draw(lottery.request("ann"), lottery.request("ben"))
        assert [one.outcome for one in found.decisions] == [Outcome.CORRUPT_RECORD, Outcome.ACCEPTED]
        assert await lottery.client.get(name) == broken
        assert (await lottery.verdict()).draws == 1


async def test_a_corrupt_prize_refuses_draws_and_answers_replays(server: RedisSettings) -> None:
    """Where a prize's stock cannot be read nothing can be drawn, and what was drawn is still told."""
    async with script_lottery(server) as lottery:
        (first,) = (await lottery.draw(lottery.request("ann"))).decisions
        await lottery.client.hset(keys.stock(lottery.id), "gold", "x")
        found = (await lottery.draw(lottery.request("ann"), lottery.request("ben"))).decisions
        assert [one.outcome for one in found] == [Outcome.REPLAYED, Outcome.CORRUPT_RECORD]
        assert found[0][1:] == first[1:]


@pytest.mark.parametrize("key", [keys.outbox, keys.stock, keys.holders])
async def test_an_error_midway_changes_nothing(server: RedisSettings, key: object) -> None:
    """Where a key is of another type the script fails before it writes anything."""
    assert callable(key)
    async with script_lottery(server) as lottery:
        await lottery.client.delete(key(lottery.id))
        await lottery.client.lpush(key(lottery.id), "x")
        before = await lottery.dump()
        with pytest.raises(BackendError):
            await lottery.draw(lottery.request("ann"))
        assert await lottery.dump() == before


async def test_refused_before_the_opening_and_as_a_whole(server: RedisSettings) -> None:
    """Nothing is drawn before the opening is in the log, behind the fence, in a sale, or when the outbox is full."""
    async with script_lottery(server, opened=False) as lottery:
        assert [one.outcome for one in (await lottery.draw(lottery.request("ann"))).decisions] == [Outcome.NOT_STARTED]
        # Opened as a sale is: its log does not say what is drawn from.
        await move_campaign(lottery.channel, lottery.id, "open")
        assert [one.outcome for one in (await lottery.draw(lottery.request("ann"))).decisions] == [Outcome.NOT_STARTED]
    async with script_lottery(server) as lottery:
        await lottery.draw(lottery.request("ben"))
        found = await lottery.draw(lottery.request("ann"), lottery.request("ben"), outbox_max=2)
        assert [one.outcome for one in found.decisions] == [Outcome.OUTBOX_FULL, Outcome.REPLAYED]
        await move_lottery(lottery.channel, lottery.id, "pause")
        assert [one.outcome for one in (await lottery.draw(lottery.request("ann"))).decisions] == [Outcome.PAUSED]
        await lottery.set_fields(run_id="another")
        with pytest.raises(FencedError):
            await lottery.draw(lottery.request("ann"))
        with pytest.raises(FencedError):
            await move_lottery(lottery.channel, lottery.id, "close")
    async with script_sale(server) as sale:
        with pytest.raises(BackendError, match="no lottery"):
            await draw(sale.channel, sale.id, [lottery.request("ann")], outbox_max=10)
        with pytest.raises(OperationRefusedError, match="no campaign"):
            await move_lottery(sale.channel, sale.id, "close")


async def test_moves_are_compare_and_set_and_logged_once(server: RedisSettings) -> None:
    """Opening twice writes one line, pausing and resuming none, closing one; nothing follows the closing."""
    async with script_lottery(server, opened=False) as lottery:
        moved = await asyncio.gather(*(move_lottery(lottery.channel, lottery.id, "open") for _ in range(5)))
        assert sorted(changed for _, changed in moved) == [False] * 4 + [True]
        assert await move_lottery(lottery.channel, lottery.id, "pause") == ("paused", True)
        with pytest.raises(OperationRefusedError, match="only from loaded"):
            await move_lottery(lottery.channel, lottery.id, "open")
        assert await move_lottery(lottery.channel, lottery.id, "resume") == ("open", True)
        await move_lottery(lottery.channel, lottery.id, "close")
        with pytest.raises(OperationRefusedError, match="closed already"):
            await move_lottery(lottery.channel, lottery.id, "close")
        assert [line.partition(" ")[0] for log in await lottery.log() for line in log.lines] == ["open", "close"]
        assert (await lottery.verdict()).closed


async def test_whatever_moves_stock_is_in_the_log(server: RedisSettings) -> None:
    """Top-ups, releases, returned second deductions, and what is withdrawn after the close, are lines of the log, once.

    The replay still holds.
    """
    kinds = [Kind("a", 2, 10, 5)]
    async with script_lottery(server, kinds=kinds, no_prize_weight=0) as lottery:
        await top_up(lottery.channel, lottery.id, "a", 3, "key with blanks")
        await top_up(lottery.channel, lottery.id, "a", 3, "key with blanks")
        ann = lottery.request("ann")
        await lottery.draw(ann)
        for outcome in (ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_RELEASED):
            assert await release(lottery.channel, lottery.id, ann.digest, "ann", 1) is outcome
        for second in (DuplicateOutcome.RETURNED, DuplicateOutcome.ALREADY_RETURNED):
            returned = await return_duplicate(
                lottery.channel, lottery.id, ann.digest, "ann",
                origin="1-0/0", sku_id="a", quantity=1, released_hold_no=0,
            )  # fmt: skip
            assert returned is second
        lines = [line for log in await lottery.log() for line in log.lines]
        assert lines[1:2] + lines[3:] == [
            "topup 3 a key with blanks", f"release 1 a {ann.digest}", f"return 1 a {ann.digest} 1-0/0",
        ]  # fmt: skip
        verdict = await lottery.verdict()
        assert (verdict.faults, verdict.remaining) == ([], {"a": 6})
        assert (await lottery.line("a")).remaining == 6
        await move_lottery(lottery.channel, lottery.id, "close")
        for _ in range(2):
            assert await withdraw(lottery.channel, lottery.id) == {"a": 6}
        await return_duplicate(
            lottery.channel, lottery.id, ann.digest, "ann",
            origin="2-0/0", sku_id="a", quantity=1, released_hold_no=0,
        )  # fmt: skip
        assert await withdraw(lottery.channel, lottery.id) == {"a": 7}
        lines = [line for log in await lottery.log() for line in log.lines]
        assert lines[-4:] == ["close", "withdraw 6 a 6", f"return 1 a {ann.digest} 2-0/0", "withdraw 1 a 7"]
        verdict = await lottery.verdict()
        assert (verdict.faults, verdict.remaining) == ([], {"a": 0})


async def test_a_sale_has_no_log(server: RedisSettings) -> None:
    """What moves a sale's stock writes nothing into its outbox."""
    async with script_sale(server, stock=5) as sale:
        await top_up(sale.channel, sale.id, "box", 3, "key")
        await move_campaign(sale.channel, sale.id, "close")
        assert await withdraw(sale.channel, sale.id) == {"box": 8}
        assert await sale.client.exists(keys.outbox(sale.id)) == 0


# -- recovery ------------------------------------------------------------------------------------------------------


async def lose(lottery: ScriptLottery, kept: dict[bytes, bytes | None]) -> None:
    """Have Redis go back to what it was, as another run; the stream forgets what it has given out."""
    names = [name async for name in lottery.client.scan_iter(match=f"fg:{{{lottery.id}:*")]
    for name in names:
        await lottery.client.delete(name)
    for name, value in kept.items():
        if value is not None:
            await lottery.client.restore(name, 0, value)
    await lottery.set_fields(run_id="before")


async def recover(lottery: ScriptLottery, logs: list[DrawLog], owners: dict[str, str] | None = None) -> int:
    """Put entries back, and open the gate."""
    run_id = await lottery.channel.connect()
    restored = 0
    for log in logs:
        restored += await restore_draws(lottery.channel, log, owners or {}, run_id=run_id)
    await open_gate(lottery.channel, lottery.id, run_id)
    return restored


async def facts(lottery: ScriptLottery) -> tuple[object, ...]:
    """Return what recovery must bring back."""
    snapshot = await lottery.snapshot()
    names = ("state", "log_seq", "log_hash", "last_outbox_id", "prizes", "no_prize_weight", "draws_per_user")
    stock = {sku: line._replace(epoch=0) for sku, line in snapshot.stock.items()}
    topups = await lottery.client.hgetall(keys.topups(lottery.id))
    marks = await lottery.client.hgetall(keys.duplicates(lottery.id))
    hashes = await lottery.client.hgetall(keys.log_hashes(lottery.id))
    withdrawn = await lottery.client.hgetall(keys.withdrawn(lottery.id))
    fields = {name: snapshot.fields.get(name) for name in names}
    return fields, stock, snapshot.holders, topups, marks, hashes, withdrawn


async def test_lost_draws_come_back_from_the_log(server: RedisSettings) -> None:
    """What Redis lost is put back entry by entry: records, stock, top-ups, marks; every draw is answered as before."""
    kinds = [Kind("a", 5, 10, 5), Kind("b", 9, 20, 0)]
    async with script_lottery(server, kinds=kinds, no_prize_weight=10, draws_per_user=2) as lottery:
        asked = [lottery.request(f"u-{number % 6}", f"k-{number}") for number in range(12)]
        first = (await lottery.draw(*asked[:4])).decisions
        kept = await lottery.dump()
        rest = (await lottery.draw(*asked[4:9])).decisions + (await lottery.draw(*asked[9:])).decisions
        await top_up(lottery.channel, lottery.id, "a", 7, "key")
        won = next(request for request, one in zip(asked[4:], rest, strict=True) if one.prize is not None)
        await release(lottery.channel, lottery.id, won.digest, won.user_id, 1)
        await return_duplicate(
            lottery.channel, lottery.id, won.digest, won.user_id,
            origin="1-0/0", sku_id="a", quantity=1, released_hold_no=0,
        )  # fmt: skip
        await move_lottery(lottery.channel, lottery.id, "close")
        await withdraw(lottery.channel, lottery.id)
        before, logs = await facts(lottery), await lottery.log()

        await lose(lottery, kept)
        with pytest.raises(FencedError):
            await lottery.draw(asked[0])
        assert await recover(lottery, logs, {won.digest: won.user_id}) == 8
        assert await facts(lottery) == before
        assert await recover(lottery, logs, {won.digest: won.user_id}) == 0
        again = (await lottery.draw(*asked)).decisions
        assert [one[1:] for one in again] == [one[1:] for one in first + rest]
        assert {one.outcome for one in again} == {Outcome.REPLAYED}


async def test_everything_lost_comes_back_from_the_log(server: RedisSettings) -> None:
    """A lottery that Redis has forgotten, loaded anew with its gate closed, is what it was; the chain goes on.

    What is drawn from is what the log opened with, whatever was loaded.
    """
    async with script_lottery(server, draws_per_user=2) as lottery:
        asked = [lottery.request(f"u-{number}") for number in range(30)]
        first = (await lottery.draw(*asked)).decisions
        await top_up(lottery.channel, lottery.id, "gold", 2, "key")
        before, logs = await facts(lottery), await lottery.log()
        standing = {sku.id: Standing(sku.stock, 5) for sku in lottery.campaign.sku}  # is not what the log says
        await lose(lottery, {})
        await lottery.client.delete(keys.campaign(lottery.id), keys.relay(lottery.id))
        fields = lottery_fields(lottery.campaign, lottery.seed)
        await load_campaign(lottery.channel, lottery.campaign, gate_closed=True, standing=standing, more_fields=fields)
        await lottery.set_fields(prizes='[["gold",1,9,"x"]]', no_prize_weight=1, draws_per_user=9)
        assert await recover(lottery, logs) == 30
        assert await facts(lottery) == before
        assert [one[1:] for one in (await lottery.draw(*asked)).decisions] == [one[1:] for one in first]
        await lottery.draw(*[lottery.request(f"u-{number}", "second") for number in range(30)])
        new = [log for log in await lottery.log() if log not in logs]
        drawn = [parse_line(line) for log in new for line in log.lines]
        assert [one.n for one in drawn if isinstance(one, Drawn)] == [2] * 30
        assert verdict_of(lottery.id, lottery.seed, [*logs, *new]).faults == []


async def test_what_does_not_go_on_is_refused(server: RedisSettings) -> None:
    """An entry that is forged, or comes after a hole, is refused and changes nothing; so is another Redis."""
    async with script_lottery(server, kinds=[Kind("a", 50, 10, 5)], no_prize_weight=0) as lottery:
        kept = await lottery.dump()
        for number in range(3):
            await lottery.draw(lottery.request(f"u-{number}"))
        logs = await lottery.log()
        await lose(lottery, kept)
        run_id, before = await lottery.channel.connect(), await lottery.dump()
        forged = msgspec.structs.replace(logs[1], lines=(logs[1].lines[0].replace("u-0", "eve"),))
        for log in (logs[2], forged):
            with pytest.raises(OperationRefusedError, match="does not go on from what Redis has"):
                await restore_draws(lottery.channel, log, {}, run_id=run_id)
        with pytest.raises(FencedError):
            await restore_draws(lottery.channel, logs[1], {}, run_id="yet another")
        assert await lottery.dump() == before


# -- loading -------------------------------------------------------------------------------------------------------


async def test_fingerprint_of_a_won_prize(server: RedisSettings) -> None:
    """The attempt in a winner's record is what its order will be: one unit, held, nothing to pay."""
    async with script_lottery(server, kinds=[Kind("a", 5, 10, 5)], no_prize_weight=0) as lottery:
        ann = lottery.request("ann")
        await lottery.draw(ann)
        assert [tuple(one) for one in await lottery.attempts("ann")] == [
            (ann.digest, fingerprint("a", 1), "a", 1, 1, True)
        ]
