"""What movements and awards come to: pure decisions, and the event that an award travels as."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import award_batch
from consumers.award_batch import Award
from consumers.batch import Reason
from consumers.dead_letter_rules import LetterId, Origin, award_of
from domain.errors import OperationRefusedError, PoisonRecordError
from domain.events import PointsAwarded, decode_points_awarded, encode_order_accepted, encode_points_awarded
from domain.order import is_user_id, split_order_id
from domain.points import (
    BALANCE_MAX,
    LedgerKind,
    Moved,
    Movement,
    Recorded,
    check_grant,
    compare,
    grant_ref,
    refuse_movement,
    sums,
)
from gateway.identity import TokenRefusedError, Verifier
from tests.support.accounts import award
from tests.support.events import event
from tests.support.records import Plain


@pytest.mark.parametrize(
    ("balance", "delta", "refusal"),
    [
        (None, 1, None),
        (None, BALANCE_MAX, None),
        (None, BALANCE_MAX + 1, Moved.OVERFLOW),
        (None, -1, Moved.NO_ACCOUNT),
        (0, -1, Moved.SHORT),
        (5, -5, None),
        (5, -6, Moved.SHORT),
        (BALANCE_MAX - 5, 5, None),
        (BALANCE_MAX - 5, 6, Moved.OVERFLOW),
        (BALANCE_MAX, -BALANCE_MAX, None),
    ],
)
def test_no_account_leaves_its_bounds(balance: int | None, delta: int, refusal: Moved | None) -> None:
    """Nobody spends what he does not have, or has more than the bound; only points that come make an account."""
    assert refuse_movement(balance, delta) is refusal


def test_a_movement_is_its_account_and_number() -> None:
    """The same user and number under a ref_id is the same movement; anything else is another."""
    wanted = Movement("r", LedgerKind.AWARD, "ann", 5)
    assert compare(Recorded("ann", 5), wanted) is Moved.KNOWN
    assert compare(Recorded("ann", 6), wanted) is Moved.OTHER
    assert compare(Recorded("ben", 5), wanted) is Moved.OTHER


@given(st.lists(st.tuples(st.sampled_from("cab"), st.integers(-9, 9))))
def test_sums_add_up_in_order(moves: list[tuple[str, int]]) -> None:
    """Every account moves once, by all that a batch has for it, and accounts come in one order."""
    found = sums(Movement(str(number), LedgerKind.AWARD, *one) for number, one in enumerate(moves))
    assert list(found) == sorted({user for user, _ in moves})
    assert found == {name: sum(delta for user, delta in moves if user == name) for name in found}


def test_a_grants_key_is_the_users_own() -> None:
    """A key names one grant of one user; it fits where a draw's or an order's id does."""
    assert grant_ref("ann", "k") == grant_ref("ann", "k")
    assert len({grant_ref("ann", "k"), grant_ref("ben", "k"), grant_ref("ann", "kk"), grant_ref("annk", "")}) == 4
    assert split_order_id(grant_ref("ann", "k")) is not None


@pytest.mark.parametrize(
    ("user", "points", "key", "why"),
    [
        ("ann", 0, "k", ""),
        ("ann", -1, "k", ""),
        ("ann", BALANCE_MAX + 1, "k", ""),
        ("", 1, "k", ""),
        (" ann", 1, "k", ""),
        ("ann ", 1, "k", ""),
        ("an\nn", 1, "k", ""),
        ("ü" * 65, 1, "k", ""),
        ("ann", 1, "", ""),
        ("ann", 1, "k" * 256, ""),
        ("ann", 1, "ü", ""),
        ("ann", 1, "k", "x" * 256),
        ("ann", 1, "k", "a\x1b[31m"),
    ],
)
def test_what_is_no_grant_is_refused(user: str, points: int, key: str, why: str) -> None:
    """A grant has a user that tokens may have, a number within bounds, a key and a line of text."""
    with pytest.raises(OperationRefusedError):
        check_grant(user, points, key, why)


def test_grants_at_their_bounds() -> None:
    """The smallest and the largest grant are allowed."""
    check_grant("u", 1, "k", "")
    check_grant("ü" * 64, BALANCE_MAX, "k" * 255, "ö" * 255)


@pytest.mark.parametrize(
    "user", ["ann", "a b", "ü" * 64, "ü" * 65, "x" * 128, "x" * 129, "", " a", "a ", "a\t", "a\x00"]
)
def test_accounts_are_of_those_whom_the_gateway_believes(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can be a token's user can have an account, and nobody else."""
    from domain.settings import AuthSettings
    from gateway import identity

    verifier = Verifier(AuthSettings(), b"k" * 32)
    claims = identity.Claims(sub=user, exp=2, aud="flashgate")
    monkeypatch.setattr(verifier, "_claims", lambda _token, _now_s: claims)
    try:
        believed = verifier.verify(b"Bearer x", 1).user_id == user
    except TokenRefusedError:
        believed = False
    assert believed == is_user_id(user)


# -- awards ----------------------------------------------------------------------------------------------------------


def awards_of(*events: PointsAwarded) -> list[Award]:
    """Return what a batch of these is."""
    return [Award(Plain(offset=number), one) for number, one in enumerate(events)]


def test_duplicates_and_others_are_told_apart() -> None:
    """The first of a draw counts; the same again does not; the same draw with another user or number is dead."""
    one, two = award(1, user="ann"), award(2, user="ann", points=7)
    batch = awards_of(one, two, one, msgspec.structs.replace(one, points=51), msgspec.structs.replace(two, user_id="b"))
    outcome, moves = award_batch.judge(batch, {})
    assert (outcome.new, outcome.duplicates, [dead.reason for dead in outcome.dead]) == (
        2,
        1,
        [Reason.OTHER_PAYLOAD] * 2,
    )
    assert sums(moves) == {"ann": 57}
    known = {one.ref_id: Recorded("ann", 50), two.ref_id: Recorded("ann", 8)}
    outcome, moves = award_batch.judge(batch, known)
    assert (outcome.new, outcome.duplicates, len(outcome.dead), moves) == (0, 2, 3, [])


@given(st.lists(st.integers(0, 9)), st.sets(st.integers(0, 9)), st.randoms())
def test_order_does_not_matter(numbers: list[int], known: set[int], chance: object) -> None:
    """In whatever order the awards come, the same accounts move by the same, and every record is counted once."""
    batch = awards_of(*(award(number, user=f"u-{number % 3}") for number in numbers))
    rows = {award(number).ref_id: Recorded(f"u-{number % 3}", 50) for number in known}
    outcome, moves = award_batch.judge(batch, rows)
    shuffled = list(batch)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    again, moves_again = award_batch.judge(shuffled, rows)
    assert sums(moves) == sums(moves_again)
    assert (outcome.new, outcome.duplicates) == (again.new, again.duplicates)
    assert outcome.new + outcome.duplicates == len(numbers)
    assert outcome.new == len(set(numbers) - known)


def test_rows_and_accounts_are_sorted() -> None:
    """Everyone writes rows by ref_id and locks accounts by user, each once."""
    batch = awards_of(*(award(number % 20, user=f"u-{number % 7 % 5}") for number in (5, 1, 18, 5, 3, 1, 25)))
    rows = [one.event.ref_id for one in award_batch.ledger_rows(batch)]
    assert rows == sorted(set(rows))
    assert len(rows) == 4
    assert award_batch.accounts(batch) == sorted({one.event.user_id for one in batch})


def test_events_travel_and_poison_is_found() -> None:
    """An award survives its encoding; what is none is poison, an order's event too."""
    one = award(1)
    assert decode_points_awarded(encode_points_awarded(one)) == one
    kept, dead = award_batch.split_poison(
        [
            Plain(value=encode_points_awarded(one)),
            Plain(value=encode_order_accepted(event(1))),
            Plain(value=None),
            Plain(value=encode_points_awarded(one).replace(b"points.awarded", b"points.withdrawn")),
            Plain(value=b'{"a":' + b"[" * 100_000),
        ]
    )
    assert [award.event for award in kept] == [one]
    assert [one.reason for one in dead] == [Reason.POISON] * 4
    with pytest.raises(PoisonRecordError, match="does not belong"):
        decode_points_awarded(encode_points_awarded(msgspec.structs.replace(one, campaign_id="other")))


def test_award_in_a_dead_letter() -> None:
    """The tools find the award in a letter, if it holds one and was a record."""
    from consumers.dead_letter_rules import Letter

    one = award(1)
    letter = Letter(
        id=LetterId("points.awarded.dead", 0, 1),
        key=one.ref_id.encode(),
        value=encode_points_awarded(one),
        headers=(),
        reason="refused",
        error="no",
        at_ms=1,
        origin=Origin("points.awarded", 0, 5),
    )
    assert award_of(letter) == one
    assert letter.order_id == one.ref_id
    for changes in ({"origin": None}, {"value": encode_order_accepted(event(1))}, {"value": None}):
        fields = {name: getattr(letter, name) for name in Letter.__slots__}
        assert award_of(Letter(**{**fields, **changes})) is None
