"""A lottery's arithmetic, its log, and what a replay of it finds."""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.draws import LogHead
from cli.lottery import judge
from domain.campaign import DRAWS_PER_USER_MAX, PRIZES_MAX, WEIGHT_MAX, parse_campaign
from domain.draw_events import (
    DrawLog,
    decode_draw_log,
    decode_draw_won,
    encode_draw_event,
    in_order,
)
from domain.errors import ConfigError, OperationRefusedError, PoisonRecordError
from domain.lottery import (
    Closed,
    Drawn,
    LogEntry,
    Moved,
    Opened,
    Replay,
    Verdict,
    commitment,
    entry_hash,
    number_of,
    pack_lines,
    parse_line,
    pick,
    user_secret,
)
from gateway.draw_records import log_record, won_records
from gateway.draw_recovery import missing_logs
from stack.paths import PROJECT_ROOT
from tests.support.lotteries import KINDS, SEED, Kind, lottery_file, lottery_text

LOTTERY = "c-1"
OPENED = f"open {commitment(SEED)} 2 50 a,10,500,3 b,40,5,100"
USERS = [f"u-{number}" for number in range(40)]


def drawn_lines(users: Sequence[str], left: list[int]) -> list[str]:
    """Return the lines of honest draws, each user's first; `left` is what they draw from."""
    lines = []
    for user in users:
        place = pick(number_of(user_secret(SEED, LOTTERY, user), 1), [10, 40], left, 50)
        assert place is not None
        digest = hashlib.md5(user.encode(), usedforsecurity=False).hexdigest()
        if place >= 0:
            left[place] -= 1
        points, sku = [(500, "a"), (5, "b"), (0, "")][place]
        lines.append(f"draw {digest} 1 {points} {sku} {user}")
    return lines


def chained(entries: Sequence[Sequence[str]]) -> list[LogEntry]:
    """Return entries with their numbers and hashes."""
    found, seq, before = [], 1, LOTTERY
    for lines in entries:
        before = entry_hash(before, seq, lines)
        found.append(LogEntry(seq, before, tuple(lines)))
        seq += len(lines)
    return found


def honest() -> list[list[str]]:
    """Return an honest log, entry by entry."""
    left = [3, 100]
    first, second = drawn_lines(USERS[:25], left), drawn_lines(USERS[25:], left)
    return [[OPENED], first, ["topup 7 b key with blanks"], second, ["close"], [f"withdraw {left[1]} b {left[1]}"]]


def verdict(entries: Sequence[LogEntry], seed: bytes = SEED) -> Verdict:
    """Replay."""
    replay = Replay(LOTTERY, seed)
    replay.feed(entries)
    return replay.verdict()


def test_secret_and_number_are_the_published_formula() -> None:
    """Whoever knows the seed computes a draw's number with nothing but HMAC-SHA256 and SHA-1."""
    for user in ("ann", "\u00e4nne"):
        secret = hmac.digest(SEED, f"c-1:{user}".encode(), "sha256")
        assert user_secret(SEED, "c-1", user) == secret
        for n in (1, 3, 12):
            digest = hashlib.sha1(secret + str(n).encode(), usedforsecurity=False).hexdigest()
            assert number_of(secret, n) == int(digest[:12], 16) < 1 << 48


@given(
    number=st.integers(0, (1 << 48) - 1),
    prizes=st.lists(st.tuples(st.integers(1, WEIGHT_MAX), st.integers(0, 3)), min_size=1, max_size=8),
    none=st.integers(0, WEIGHT_MAX),
)
def test_pick_counts_off_along_what_is_left(number: int, prizes: list[tuple[int, int]], none: int) -> None:
    """A number wins the prize on whose stretch it falls; prizes without stock have none, and "no prize" comes last."""
    weights, left = [weight for weight, _ in prizes], [units for _, units in prizes]
    ends, total = [], 0
    for place, weight in enumerate(weights):
        if left[place]:
            total += weight
            ends.append((total, place))
    total += none
    found = pick(number, weights, left, none)
    if total == 0:
        assert found is None
    else:
        assert found == next((place for end, place in ends if number % total < end), -1)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("open c0ffee 2 50 a,10,500,3", Opened("c0ffee", 2, 50, ["a"], [10], [500], [3])),
        ("draw 00ff 1 0  ann", Drawn("00ff", 1, 0, "", "ann")),
        ("draw 00ff 12 5 a user with blanks", Drawn("00ff", 12, 5, "a", "user with blanks")),
        ("topup 7 b a key", Moved("topup", 7, "b", "a key")),
        ("return 1 a 00ff 1-0/3", Moved("return", 1, "a", "00ff 1-0/3")),
        ("withdraw 5 b 12", Moved("withdraw", 5, "b", "12")),
        ("close", Closed()),
    ],
)
def test_lines_are_read(text: str, what: object) -> None:
    """Each kind of line is read to what it says, whatever the user's name or the key of a top-up holds."""
    assert parse_line(text) == what


@pytest.mark.parametrize(
    "text", ["", "close now", "draw 00ff 1 0", "draw 00ff x 0 a ann", "win 1 a", "open c0ffee 2 50"]
)
def test_what_is_no_line_is_refused(text: str) -> None:
    """A line of no known kind, or with parts missing, is an error that can be told."""
    with pytest.raises(PoisonRecordError):
        parse_line(text)


def test_an_honest_log_is_verified() -> None:
    """A log as the scripts write it has no fault, and its sums are those of its lines."""
    found = verdict(chained(honest()))
    assert found.faults == []
    assert (found.lines, found.draws, found.closed) == (44, 40, True)
    assert found.remaining == {"a": 3 - found.won.get("a", 0), "b": 7}  # drawn_lines knows nothing of the top-up
    assert found.points == 500 * found.won.get("a", 0) + 5 * found.won["b"]


def test_one_tampered_draw_is_found() -> None:
    """A draw whose prize was changed, with every hash made anew, is found by its number: that line and no other."""
    entries = honest()
    line = next(place for place, text in enumerate(entries[1]) if " 0  " in text)
    entries[1][line] = entries[1][line].replace(" 0  ", " 500 a ")
    found = verdict(chained(entries))
    assert [fault.seq for fault in found.faults] == [2 + line]
    assert "won 'a' (500 points); its number wins nothing" in found.faults[0].text


@given(entry=st.integers(0, 5), data=st.data())
def test_whatever_is_changed_breaks_the_chain(entry: int, data: st.DataObject) -> None:
    """Any character changed in any line leaves an entry whose hash is not its own."""
    entries = chained(honest())
    old = entries[entry]
    line = data.draw(st.integers(0, len(old.lines) - 1))
    place = data.draw(st.integers(5, len(old.lines[line]))) if len(old.lines[line]) > 5 else len(old.lines[line])
    lines = list(old.lines)
    lines[line] = lines[line][:place] + "7" + lines[line][place:]
    assert entry_hash(LOTTERY, old.seq, lines) != entry_hash(LOTTERY, old.seq, old.lines)
    entries[entry] = old._replace(lines=tuple(lines))
    try:
        found = verdict(entries)
    except PoisonRecordError:
        return
    assert any("their hash is not" in fault.text for fault in found.faults)


def without_a_draw(lines: list[str]) -> None:
    """Drop the draw in the middle."""
    del lines[12]


def with_a_pair_swapped(lines: list[str]) -> None:
    """Have two draws change places."""
    lines[3], lines[4] = lines[4], lines[3]


def with_another_weight(lines: list[str]) -> None:
    """Have the lottery opened with another weight; the lines of draws stay as they are."""
    lines[0] = lines[0].replace("a,10,", "a,11,")


@pytest.mark.parametrize(("entry", "tamper"), [(1, without_a_draw), (1, with_a_pair_swapped), (0, with_another_weight)])
def test_a_log_that_was_tampered_with_is_found(entry: int, tamper: Callable[[list[str]], None]) -> None:
    """A draw that is dropped, two that are swapped, and a weight that is changed break the chain; made anew, its end.

    Whoever makes every hash anew ends at another one than Redis, than the log in Kafka, and than buyers were told.
    """
    entries, lines = honest(), honest()
    tamper(lines[entry])
    true, forged = chained(entries), chained(lines)
    patched = [*true]
    patched[entry] = true[entry]._replace(lines=tuple(lines[entry]))
    assert any("their hash is not" in fault.text for fault in verdict(patched).faults)
    assert {one.hash for one in true[entry:]}.isdisjoint(one.hash for one in forged[entry:])
    head = LogHead(true[-1].last_seq, true[-1].hash)
    logs = [DrawLog(campaign_id=LOTTERY, outbox_id="1-0", at_ms=1, **one._asdict()) for one in forged]
    assert any("Redis is there with another hash" in fault.text for fault in judge(LOTTERY, SEED, logs, head).faults)


def test_missing_lines_and_another_seed_are_found() -> None:
    """An entry that is gone shows where it is missing, and a seed that was not committed to shows at the opening."""
    entries = chained(honest())
    assert "follows line 1" in verdict([entries[0], *entries[2:]]).faults[0].text
    assert "whose SHA-256 was published" in verdict(entries, secrets.token_bytes(32)).faults[0].text
    assert "before the line that opens" in verdict(entries[1:]).faults[1].text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (drawn_lines(["zoe"], [0, 0])[0].replace(" 1 ", " 2 ", 1), "should be 1 of 2"),
        ("topup 1 no-such key", "cannot be"),
        ("take 1000 b 00ff", "not there"),
        ("withdraw 1 b 1", "before the lottery was closed"),
        (OPENED, "opened before"),
    ],
)
def test_lines_that_cannot_be_are_found(line: str, text: str) -> None:
    """A draw out of turn, a move of a prize that there is not, and a second opening are faults."""
    entries = honest()[:2]
    assert any(text in fault.text for fault in verdict(chained([*entries, [line]])).faults)


def test_draws_beyond_the_limit_or_the_end_are_found() -> None:
    """The third draw of two, a draw that stands there twice, and one after the closing are faults."""
    first = drawn_lines(["ann"], [3, 100])[0]
    again = [first.replace(" 1 ", f" {n} ", 1).replace("draw ", f"draw {n}", 1) for n in (2, 3)]
    assert any("should be 3 of 2" in fault.text for fault in verdict(chained([[OPENED], [first, *again]])).faults)
    assert any("twice" in fault.text for fault in verdict(chained([[OPENED], [first, first]])).faults)
    late = verdict(chained([[OPENED], ["close"], [first]]))
    assert [fault.text for fault in late.faults] == ["drawn after the lottery was closed"]


# -- events --------------------------------------------------------------------------------------------------------


def log_of(entry: LogEntry, outbox_id: str = "1700000000000-0") -> DrawLog:
    """Return an entry as it travels."""
    return DrawLog(
        campaign_id=LOTTERY, outbox_id=outbox_id, at_ms=1_700_000_000_000, seq=entry.seq, hash=entry.hash,
        lines=entry.lines,
    )  # fmt: skip


def test_events_follow_from_the_log_alone() -> None:
    """What is published of an entry is the log, and of each draw that won the order and the points: always the same."""
    entry = chained(honest())[1]
    log = decode_draw_log(encode_draw_event(log_of(entry)))
    assert log.entry == entry
    won = log.won()
    assert [(one.seq, one.outbox_index) for one in won] == [
        (entry.seq + index, index) for index, line in enumerate(entry.lines) if " 0  " not in line
    ]
    records = won_records(log)
    assert [record.topic for record in records] == ["draws.won", "points.awarded"] * len(won)
    assert [decode_draw_won(record.value) for record in records[::2]] == won
    assert (log_record(log).topic, log_record(log).key) == ("draws.log", LOTTERY.encode())
    order = won[0].order()
    assert (order.quantity, order.unit_price_cents, order.hold_no) == (1, 0, 1)
    assert (order.outbox_id, order.outbox_index) == (log.outbox_id, won[0].outbox_index)


def test_a_prize_without_points_awards_none() -> None:
    """A prize that is worth no points has its order and no award."""
    entry = chained([[OPENED.replace("a,10,500", "a,10,0")], ["draw " + "0" * 32 + " 1 0 a ann"]])[1]
    assert [record.topic for record in won_records(log_of(entry))] == ["draws.won"]


@pytest.mark.parametrize("value", [None, b"", b"{}", b"[" * 5_000, b'{"schema":{"name":"draw.won","version":2}}'])
def test_what_is_no_event_is_poison(value: bytes | None) -> None:
    """A value that is no event is an error that names it, for the dead letters."""
    for decode in (decode_draw_won, decode_draw_log):
        with pytest.raises(PoisonRecordError):
            decode(value)


def test_repeated_and_forked_entries() -> None:
    """The same entry counts once, in whatever order it comes; two with one number are both kept, and shown."""
    logs = [log_of(entry) for entry in chained(honest())]
    assert in_order([*logs[::-1], *logs]) == logs
    forked = log_of(chained([honest()[0], honest()[1][:5]])[1])
    assert verdict([log.entry for log in in_order([*logs, forked])]).faults


def test_recovery_takes_only_what_goes_on_from_redis() -> None:
    """Entries beyond Redis's are taken; a hole, a fork or another hash at Redis's end are refused, for a person."""
    logs = [log_of(entry) for entry in chained(honest())]
    head = LogHead(logs[1].entry.last_seq, logs[1].hash)
    assert missing_logs(LOTTERY, head, logs) == logs[2:]
    assert missing_logs(LOTTERY, LogHead(0, LOTTERY), logs) == logs
    assert missing_logs(LOTTERY, LogHead(logs[-1].entry.last_seq, logs[-1].hash), logs) == []
    for wrong, known in (
        (head, [*logs[:2], *logs[3:]]),
        (head._replace(hash="0" * 40), logs),
        (head, [*logs, log_of(chained([*honest()[:2], ["topup 8 b other"]])[2])]),
    ):
        with pytest.raises(OperationRefusedError):
            missing_logs(LOTTERY, wrong, known)


def test_lines_are_packed_as_the_scripts_do() -> None:
    """A line stands behind 0xDA and its length in two bytes, counted in UTF-8."""
    assert pack_lines(["a", "é"]) == b"\xda\x00\x01a\xda\x00\x02\xc3\xa9"


# -- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            lambda text: text.replace("weight = 10\n", "weight = 0\n"),
            r"line \d+: sku\[1\].weight: a prize needs a weight",
        ),
        (lambda text: text.replace("weight = 10\n", "weight = -1\n"), r"sku\[1\].weight"),
        (lambda text: text.replace("weight = 10\n", "weight = 1.5\n"), r"sku\[1\].weight"),
        (lambda text: text.replace("weight = 10\n", ""), r"sku\[1\].weight: a prize needs a weight"),
        (lambda text: text.replace("weight = 10\n", f"weight = {WEIGHT_MAX + 1}\n"), r"sku\[1\].weight"),
        (lambda text: text.replace("no_prize_weight = 49", "no_prize_weight = -1"), r"lottery.no_prize_weight"),
        (lambda text: text.replace("no_prize_weight = 49", f"no_prize_weight = {WEIGHT_MAX + 1}"), "no_prize_weight"),
        (lambda text: text.replace("points = 5\n", "points = -5\n"), r"sku\[2\].points"),
        (lambda text: text.replace("points = 5\n", "points = 1000000001\n"), r"sku\[2\].points"),
        (lambda text: text.replace("per_user = 1", f"per_user = {DRAWS_PER_USER_MAX + 1}", 1), "draws_per_user"),
    ],
)
def test_files_that_cannot_be_drawn_from_are_refused(change: object, place: str) -> None:
    """Weights that are zero, negative, missing or too large, and points beyond the bound, name the line and field."""
    assert callable(change)
    with pytest.raises(ConfigError, match=place):
        parse_campaign(change(lottery_text("c-1")), source="test")


def test_a_lottery_has_so_many_kinds_of_prizes_at_most() -> None:
    """More kinds of prizes than a draw may walk through are refused; as many are fine."""
    kinds = [Kind(f"p-{number}", 1, 1, 1) for number in range(PRIZES_MAX + 1)]
    assert len(lottery_file("c-1", kinds=kinds[:-1]).sku) == PRIZES_MAX
    with pytest.raises(ConfigError, match="at most 100 kinds"):
        lottery_file("c-1", kinds=kinds)


def test_the_example_can_be_drawn_from() -> None:
    """The example's file is a lottery with 1,000 prizes."""
    example = parse_campaign((PROJECT_ROOT / "examples" / "lottery.toml").read_text(encoding="utf-8"), source="example")
    assert (example.campaign.kind, sum(sku.stock for sku in example.sku)) == ("lottery", 1_000)


def test_weights_are_nothing_to_a_sale() -> None:
    """A file of another kind may have no weights: fields of another kind are ignored."""
    text = lottery_text("c-1").replace('"lottery"', '"sale"').replace("weight = 10\n", "")
    assert parse_campaign(text, source="test").sku[1].weight == 0
    assert KINDS[1].weight == 10
