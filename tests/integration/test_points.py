"""Accounts and awards on real Kafka and MariaDB: the balance is the sum of its ledger, whatever happens at once."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import orjson
import pytest
import pytest_asyncio

from adapters.kafka_reader import open_reader
from adapters.mysql import DataRefusedError, Pool, points_dsn, query
from adapters.points import ADD_TO_ACCOUNTS, move_once, read_statement, read_sum
from consumers.app import group_of
from consumers.award_batch import Award
from consumers.awards import AwardStore
from consumers.backlog_view import read_backlog
from consumers.batch import Reason
from consumers.dead_letter_rules import LetterId
from domain.errors import BackendError
from domain.events import PointsAwarded, dead_topic, encode_points_awarded
from domain.points import BALANCE_MAX, LedgerKind, Moved, Movement
from domain.settings import Settings
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support.accounts import AT_MS, Accounts, award, new_accounts
from tests.support.metrics import Recorded
from tests.support.operator import command
from tests.support.orders import members_of
from tests.support.records import Plain
from tests.support.shop import open_shop

pytestmark = pytest.mark.usefixtures("stack")


@pytest_asyncio.fixture
async def accounts(endpoints: Endpoints) -> AsyncIterator[Accounts]:
    """Return accounts of its own on the shared servers."""
    async with new_accounts(endpoints) as made:
        yield made


def spend(number: int, user: str, points: int) -> Movement:
    """Return what redemption `number` takes."""
    return Movement(f"r-1~{number}", LedgerKind.SPEND, user, -points)


def grant(number: int, user: str, points: int) -> Movement:
    """Return grant `number`."""
    return Movement(f"grant~{number}", LedgerKind.GRANT, user, points)


# -- one movement ----------------------------------------------------------------------------------------------------


async def test_a_movement_is_made_once(accounts: Accounts) -> None:
    """What is asked again is known; under the same ref_id another user or number is not the same, another kind is new.

    Guards: the ledger's row decides. Its observable: of ten at once and one more, one is new.
    """
    wanted = grant(1, "ann", 100)
    asked = [move_once(accounts.pool, wanted, at_ms=AT_MS) for _ in range(10)]
    came = Counter([*await asyncio.gather(*asked), await move_once(accounts.pool, wanted, at_ms=AT_MS)])
    assert came == {Moved.NEW: 1, Moved.KNOWN: 10}
    for other in (wanted._replace(delta=99), wanted._replace(user_id="ben")):
        assert await move_once(accounts.pool, other, at_ms=AT_MS) is Moved.OTHER
    assert await move_once(accounts.pool, wanted._replace(kind=LedgerKind.REFUND), at_ms=AT_MS) is Moved.NEW
    assert await accounts.balances() == {"ann": 200, "ben": 0}
    await accounts.assert_sums()


async def test_refusals_change_nothing(accounts: Accounts) -> None:
    """Points or an account that are not there, more than an account may have: refused, and all is as before."""
    await move_once(accounts.pool, grant(1, "ann", 100), at_ms=AT_MS)
    await move_once(accounts.pool, grant(2, "rich", BALANCE_MAX), at_ms=AT_MS)
    before = await accounts.balances(), await accounts.ledger(), await read_sum(accounts.pool, "ann")
    for wanted, refused in (
        (spend(1, "ann", 101), Moved.SHORT),
        (spend(2, "nobody", 1), Moved.NO_ACCOUNT),
        (grant(3, "rich", 1), Moved.OVERFLOW),
        (grant(4, "ann", BALANCE_MAX), Moved.OVERFLOW),
    ):
        assert await move_once(accounts.pool, wanted, at_ms=AT_MS) is refused
    assert before == (await accounts.balances(), await accounts.ledger(), await read_sum(accounts.pool, "ann"))
    assert await move_once(accounts.pool, spend(1, "ann", 100), at_ms=AT_MS) is Moved.NEW  # a refusal is not remembered


async def test_last_points_are_spent_once(accounts: Accounts) -> None:
    """Twenty redemptions race for points that are enough for three: exactly three win, and nothing is left over.

    Guards: the account is locked while its balance is looked at. Its observable: 3 and 17.
    """
    await move_once(accounts.pool, grant(1, "ann", 300), at_ms=AT_MS)
    asked = [move_once(accounts.pool, spend(number, "ann", 100), at_ms=1) for number in range(20)]
    came = await asyncio.gather(*asked, return_exceptions=True)
    assert Counter(one if isinstance(one, Moved) else type(one) for one in came) == {Moved.NEW: 3, Moved.SHORT: 17}
    assert await accounts.balances() == {"ann": 0}
    await accounts.assert_sums()


async def test_everything_at_once(accounts: Accounts) -> None:
    """Awards in batches, grants and redemptions of the same accounts at once, some of them twice: the sums are right.

    Guards: everyone takes locks in one order. Its observable: no attempt had to be repeated.
    """
    users = [f"user-{number}" for number in range(12)]
    chance = random.Random(11)
    for number, user in enumerate(users):
        assert await move_once(accounts.pool, grant(1_000 + number, user, 500), at_ms=1) is Moved.NEW
    awards = [award(number, user=chance.choice(users), points=1 + number % 7) for number in range(600)]
    singles = [spend(number, chance.choice(users), 1 + number % 90) for number in range(150)]
    singles += [grant(number, chance.choice(users), 1 + number % 50) for number in range(150)]
    store, repeated, came, new = AwardStore(accounts.pool), list[BackendError](), Counter[Moved](), list[int]()
    spent = list[Movement]()

    async def write(first: int) -> None:
        for number in range(6):
            own = [Award(Plain(), one) for one in awards[first + number * 50 : first + (number + 1) * 50]]
            others = [Award(Plain(), one) for one in chance.sample(awards, 50)]
            for batch in (own, others):
                try:
                    new.append((await store.store(batch, now_ms=1)).new)
                except BackendError as error:
                    repeated.append(error)

    async def move(some: list[Movement]) -> None:
        for wanted in some:
            try:
                moved = await move_once(accounts.pool, wanted, at_ms=1)
            except BackendError as error:
                repeated.append(error)
                continue
            came[moved] += 1
            if moved is Moved.NEW:
                spent.append(wanted)

    mixed = chance.sample(singles, len(singles))
    async with asyncio.TaskGroup() as group:
        group.create_task(write(0))
        group.create_task(write(300))
        group.create_task(move(mixed))
        group.create_task(move(mixed[::-1]))
    assert repeated == []
    assert sum(new) == len(awards)
    assert set(came) <= {Moved.NEW, Moved.KNOWN, Moved.SHORT}
    total = 500 * len(users) + sum(one.points for one in awards) + sum(one.delta for one in spent)
    assert sum((await accounts.balances()).values()) == total
    await accounts.assert_sums()


# -- awards ----------------------------------------------------------------------------------------------------------


async def test_awards_in_any_order_count_once(accounts: Accounts) -> None:
    """What comes twice, in one batch, in another or the other way round, is counted once.

    A batch moves each of its accounts by one statement, once, however many awards it has for it.
    """
    awards = [award(number, user=f"user-{number % 5}", points=1 + number) for number in range(60)]
    shuffled = random.Random(5).sample(awards, 60)
    await accounts.publish([*shuffled, *awards[::-1]])
    metrics = Recorded()
    await accounts.drain(accounts.writer(metrics, batch_max=25), metrics, 120)
    await accounts.assert_awarded(awards)
    assert (metrics.new, metrics.duplicates, sum(metrics.deads.values())) == (60, 60, 0)
    assert await accounts.balances() == {
        f"user-{user}": sum(1 + number for number in range(user, 60, 5)) for user in range(5)
    }
    found = await read_sum(accounts.pool, "user-0")
    assert found is not None
    assert found.ledger_rows == 12
    assert found.version <= len(metrics.batches)


async def test_killed_between_mysql_and_offset_commit(accounts: Accounts) -> None:
    """Fault 21: a writer killed after MySQL's commit gets the same awards again, and every account moves once.

    Guards: the ledger decides what is new. Its observable: the awards come again and none of them counts as new.
    """
    awards = [award(number, user=f"user-{number % 3}") for number in range(50)]
    await accounts.publish(awards)
    process = await accounts.spawn("consumer.after_mysql_commit")
    assert await process.wait() == -signal.SIGKILL
    before = len(await accounts.ledger())
    assert before > 0
    metrics = Recorded()
    await accounts.drain(accounts.writer(metrics), metrics, 50)
    assert sum((await accounts.balances()).values()) == 50 * 50
    assert (metrics.new, metrics.duplicates) == (50 - before, before)
    await accounts.assert_awarded(awards)


async def test_answer_to_commit_lost(accounts: Accounts) -> None:
    """Fault 22: COMMIT takes effect and its answer is lost; the batch is repeated, and every account moves once.

    Guards: the ledger decides what is new, with a nonce of its own in each attempt.
    """
    awards = [award(number, user=f"user-{number % 3}") for number in range(50)]
    await accounts.publish(awards)
    dsn = points_dsn(accounts.settings.mysql)
    async with Proxy(dsn.host, dsn.port) as proxy:
        commits = proxy.count(b"\x03COMMIT")
        lost = proxy.cut_reply(b"\x03COMMIT")
        pool = Pool(msgspec.structs.replace(dsn, port=proxy.port), size_max=2, connect_timeout_s=5)
        metrics = Recorded()
        await accounts.drain(accounts.writer(metrics, pool=pool), metrics, 50)
        await pool.close()
    assert sum((await accounts.balances()).values()) == 50 * 50
    assert (lost.fired, metrics.retries["write"]) == (1, 1)
    assert commits.seen >= 2
    assert metrics.new + metrics.duplicates == 50
    assert metrics.duplicates > 0
    await accounts.assert_awarded(awards)


async def test_grant_whose_commit_was_not_heard_of(accounts: Accounts) -> None:
    """Fault 22 for a person's grant: the same call again says that it is known, and the points are there once."""
    dsn = points_dsn(accounts.settings.mysql)
    async with Proxy(dsn.host, dsn.port) as proxy:
        lost = proxy.cut_reply(b"\x03COMMIT")
        pool = Pool(msgspec.structs.replace(dsn, port=proxy.port), size_max=2, connect_timeout_s=5)
        with pytest.raises(BackendError):
            await move_once(pool, grant(1, "ann", 5), at_ms=AT_MS)
        assert await move_once(pool, grant(1, "ann", 5), at_ms=AT_MS) is Moved.KNOWN
        await pool.close()
    assert lost.fired == 1
    assert await accounts.balances() == {"ann": 5}


def poison(good: PointsAwarded) -> list[tuple[bytes | None, str]]:
    """Return (value, reason) of records that can never be written; `good` is among those that are."""
    fresh = award(900)
    body = encode_points_awarded(fresh)
    changed = [
        msgspec.structs.replace(fresh, campaign_id="spin-2"),
        msgspec.structs.replace(fresh, ref_id="spin-1~12"),
        msgspec.structs.replace(fresh, user_id="drawer-900 "),
        msgspec.structs.replace(fresh, user_id="drawer\n900"),
        msgspec.structs.replace(fresh, user_id="ü" * 65),
    ]
    values: list[bytes | None] = [
        None,
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b'{"a":' + b"[" * 100_000,
        *(body.replace(b'"points":50', b'"points":' + bad) for bad in (b"0", b"-5", b"1.5", b"true", b"1000000001")),
        body.replace(b'"points":50', b'"points":9223372036854775808'),
        body.replace(b'"version":1', b'"version":2'),
        *map(encode_points_awarded, changed),
    ]
    others = [msgspec.structs.replace(good, points=51), msgspec.structs.replace(good, user_id="thief")]
    return [
        *((value, str(Reason.POISON)) for value in values),
        *((encode_points_awarded(one), str(Reason.OTHER_PAYLOAD)) for one in others),
    ]


async def test_poison_awards_do_not_hold_up_the_others(accounts: Accounts) -> None:
    """Fault 27: what can never be written goes to the dead letters, byte for byte, and all others are written.

    Guards: a batch that MySQL refuses is bisected. Its observable: of all the awards of a full account, the one that
    does not fit is dead, and those beside it are written.
    """
    await move_once(accounts.pool, grant(1, "full", BALANCE_MAX - 120), at_ms=AT_MS)
    good = [award(number, user=f"user-{number % 3}") for number in range(40)]
    fits, too_much = [award(100, user="full"), award(101, user="full")], award(102, user="full", points=1_000)
    bad = [*poison(good[0]), (encode_points_awarded(too_much), str(Reason.REFUSED))]
    key = good[0].ref_id.encode()  # all in one partition, the good one first
    await accounts.publish([*good, *fits, *((key, value) for value, _reason in bad)])
    metrics = Recorded()
    await accounts.drain(accounts.writer(metrics), metrics, 42 + len(bad))
    dead = [(one.value, dict(one.headers)["reason"].decode()) for one in await accounts.dead_letters()]
    assert Counter(dead) == Counter(bad)
    assert metrics.deads == Counter(reason for _value, reason in bad)
    assert await accounts.balances() == {
        "full": BALANCE_MAX - 20,
        "thief": 0,
        "user-0": 14 * 50,
        "user-1": 13 * 50,
        "user-2": 13 * 50,
    }
    assert len(await accounts.ledger()) == 43
    await accounts.assert_sums()


async def test_known_awards_of_a_full_account(accounts: Accounts) -> None:
    """What a full account had before is a duplicate, not too much; a batch of which a part is known moves the rest."""
    await move_once(accounts.pool, grant(1, "full", BALANCE_MAX - 100), at_ms=AT_MS)
    store = AwardStore(accounts.pool)

    async def write(*awards: PointsAwarded) -> tuple[int, int, int]:
        outcome = await store.store([Award(Plain(), one) for one in awards], now_ms=1)
        return outcome.new, outcome.duplicates, len(outcome.dead)

    first, second, third = award(1, user="full"), award(2, user="full"), award(3, user="ann")
    assert await write(first) == (1, 0, 0)
    assert await write(first, second, second, third) == (2, 2, 0)  # as if all were new it would be too much
    assert await write(first, second) == (0, 2, 0)
    assert await write(award(4, user="ann"), first, third) == (1, 2, 0)
    assert await write(award(5, user="ann"), award(6, user="ben")) == (2, 0, 0)
    with pytest.raises(DataRefusedError, match="balance_bounded"):
        await write(award(7, user="full", points=1), award(8, user="ann"))
    assert await accounts.balances() == {"full": BALANCE_MAX, "ann": 150, "ben": 50}
    await accounts.assert_sums()


async def test_two_processes_at_once(accounts: Accounts) -> None:
    """Two writers in processes of their own, and one here that gets every award again: each award counts once."""
    awards = [award(number, user=f"user-{number % 20}", points=1 + number % 9) for number in range(2_000)]
    group = {accounts.topic: group_of(accounts.settings, "points")}
    processes = [await accounts.spawn("nowhere") for _ in range(2)]
    async with asyncio.timeout(60):
        while await members_of(accounts.settings, group[accounts.topic]) < len(processes):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await accounts.publish(awards)
    metrics = Recorded()
    writer = accounts.writer(metrics, group=f"{accounts.settings.consumer.group}-b", batch_max=130)
    await accounts.drain(writer, metrics, 2_000)
    async with asyncio.timeout(60):
        while (
            await read_backlog(
                accounts.settings.kafka, group, monotonic=asyncio.get_running_loop().time, measure_s=0.05
            )
        ).lag:
            pass
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert metrics.new + metrics.duplicates == 2_000
    await accounts.assert_awarded(awards)


async def test_dead_awards_are_known_to_the_tools(settings: Settings, tmp_path: Path) -> None:
    """`deadletter list` looks at the awards' dead letters, too; a dropped one says who goes without."""
    from cli.deadletter import open_desk

    one = award(7, user="ann")
    headers = [("reason", b"refused"), ("error", b"no"), ("topic", b"points.awarded"), ("partition", b"0")]
    headers += [("offset", b"3"), ("failed_at", b"1790000000000")]
    from adapters import kafka

    producer = kafka.make_producer(settings.kafka)
    await producer.start()
    sent = await producer.send_and_wait(
        dead_topic("points.awarded"), value=encode_points_awarded(one), key=one.ref_id.encode(), headers=headers
    )
    await producer.stop()
    letter = LetterId(sent.topic, sent.partition, sent.offset)
    async with open_reader(settings.kafka), open_desk(settings) as desk:
        listed = {found.id: found for found in (await desk.list_letters()).letters}
        assert listed[str(letter)].order_id == one.ref_id
        (deed,) = [deed async for deed in desk.drop([letter])]
    assert (deed.action, deed.detail) == ("dropped", f"50 points for ann are given up, of draw {one.ref_id}")
    code, lines = await command(settings, tmp_path, "deadletter", "show", str(letter))
    assert code == 0
    assert any("dropped" in line for line in lines)


# -- what people see -------------------------------------------------------------------------------------------------


async def test_grant_and_show(settings: Settings, tmp_path: Path) -> None:
    """`points grant` gives once a key; `points show` has balance, last rows and sum; what is no grant is refused."""
    user = f"ann-{tmp_path.name}"

    async def points(*args: str) -> tuple[int, list[str]]:
        return await command(settings, tmp_path, "points", *args)

    code, lines = await points("show", user)
    assert (code, "no account" in lines[-1]) == (1, True)
    for again in (True, False):
        code, lines = await points("grant", user, "100", "--key", "k-1", "--why", "for coming", "--json")
        facts = orjson.loads(lines[-1])
        assert (code, facts["granted"], facts["balance"], facts["key"]) == (0, again, 100, "k-1")
    for bad in (
        ("grant", user, "0"),
        ("grant", user, "-5"),
        ("grant", user, str(BALANCE_MAX)),
        ("grant", user, str(2**63)),
        ("grant", user, "99", "--key", "k-1"),
        ("grant", f" {user}", "5"),
        ("grant", "", "5"),
        ("grant", "x" * 129, "5"),
    ):
        code, lines = await points(*bad)
        assert (code, "Traceback" in "".join(lines)) == (1, False), bad
    code, lines = await points("grant", user, "7")
    assert (code, lines[-1]) == (0, f"{user}: 107 points")
    code, lines = await points("show", user, "--json")
    facts = orjson.loads(lines[-1])
    assert (code, facts["balance"], facts["ledger_sum"], facts["ledger_rows"], facts["equal"]) == (0, 107, 107, 2, True)
    assert [(one["kind"], one["delta"], one["note"]) for one in facts["ledger"]] == [
        ("grant", 7, ""),
        ("grant", 100, "for coming"),
    ]
    pool = Pool(points_dsn(settings.mysql), size_max=1, connect_timeout_s=5)
    await query(pool, "UPDATE account SET balance = 5 WHERE user_id = %s", (user,))
    await pool.close()
    code, lines = await points("show", user)
    assert (code, lines[-1]) == (1, "the balance IS NOT the sum of the ledger: 107 in 2 rows")


@pytest.mark.parametrize("lane", ["fast", "aiohttp"], indirect=True)
async def test_own_points_alone(settings: Settings, tmp_path: Path) -> None:
    """Fault 46: `GET /v1/points` tells a user his own account, newest first and bounded; who has none has no points.

    Guards: the account is the token's user's. Its observable: the other user sees his own movements and no more.
    """
    ann, ben = f"ann-{tmp_path.name}", f"ben-{tmp_path.name}"
    async with open_shop(settings) as shop, shop.worker() as url:
        for number in range(103):
            wanted = Movement(f"grant~{ann}-{number}", LedgerKind.GRANT, ann, number + 1)
            assert await move_once(shop.clients.points, wanted, at_ms=AT_MS + number) is Moved.NEW
        told = await shop.get(url, "/v1/points", ann)
        assert (told.status, told.body["balance"], len(told.body["ledger"])) == (200, 103 * 104 // 2, 100)
        assert told.body["ledger"][0] == {
            "ref_id": f"grant~{ann}-102",
            "kind": "grant",
            "delta": 103,
            "at": "2026-09-21T14:13:20.102Z",
        }
        assert told.headers["Cache-Control"] == "no-store"
        assert (await shop.get(url, "/v1/points", ben)).body == {"balance": 0, "ledger": []}
        await move_once(shop.clients.points, Movement(f"grant~{ben}", LedgerKind.GRANT, ben, 5), at_ms=AT_MS)
        assert [one["delta"] for one in (await shop.get(url, "/v1/points", ben)).body["ledger"]] == [5]
        assert (await shop.get(url, "/v1/points?user_id=" + ann, ben)).body["balance"] == 5
        assert (await shop.get(url, "/v1/points")).status == 401
        posted = await shop.change(url, "/v1/points", shop.bearer(ann))
        assert (posted.status, posted.headers["Allow"]) == (405, "GET")


async def test_points_while_mysql_is_away(settings: Settings) -> None:
    """With fg_points away the answer is 503 UNKNOWN, not an empty account; orders are sold all the same."""
    dsn = points_dsn(settings.mysql)
    async with Proxy(dsn.host, dsn.port) as proxy:
        address = f"mysql://{dsn.user}:{dsn.password}@{proxy.host}:{proxy.port}/{dsn.database}"
        away = msgspec.structs.replace(settings, mysql=msgspec.structs.replace(settings.mysql, points_dsn=address))
        async with open_shop(settings) as shop, shop.worker(away) as url:
            assert (await shop.get(url, "/v1/points", "zoe")).status == 200
            proxy.down()
            told = await shop.get(url, "/v1/points", "zoe")
            assert (told.status, told.code) == (503, "UNKNOWN")
            assert (await shop.buy(url, "zoe")).status == 202
            proxy.up()
            assert (await shop.get(url, "/v1/points", "zoe")).body["balance"] == 0


async def test_bounds_are_the_databases_own(accounts: Accounts) -> None:
    """MySQL itself refuses a balance below zero or above the bound, whoever writes it."""
    await move_once(accounts.pool, grant(1, "ann", 5), at_ms=AT_MS)
    for balance in (-1, BALANCE_MAX + 1):
        with pytest.raises(Exception, match="balance_bounded"):
            await query(accounts.pool, "UPDATE account SET balance = %s WHERE user_id = 'ann'", (balance,))
    with pytest.raises(Exception, match="balance_bounded"):
        await query(accounts.pool, ADD_TO_ACCOUNTS, ("ann", BALANCE_MAX - 4, 1))
    assert (await read_statement(accounts.pool, "ann")) is not None
    assert await accounts.balances() == {"ann": 5}
