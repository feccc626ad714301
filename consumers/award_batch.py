"""What a batch of awards means, decided without I/O.

An award is its ref_id. What comes again under it for the same account and number of points is a harmless duplicate, in
whatever order; for another account or another number it is dead.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from consumers.batch import Dead, Outcome, Reason, Record
from domain.errors import PoisonRecordError
from domain.events import PointsAwarded, decode_points_awarded
from domain.points import LedgerKind, Moved, Movement, Recorded, compare


class Award(NamedTuple):
    """A record and the event in it."""

    record: Record
    event: PointsAwarded

    @property
    def movement(self) -> Movement:
        """What the event does to its account."""
        return Movement(self.event.ref_id, LedgerKind.AWARD, self.event.user_id, self.event.points)


def split_poison(records: Iterable[Record]) -> tuple[list[Award], list[Dead]]:
    """Decode records; those that are no events are dead."""
    awards: list[Award] = []
    dead: list[Dead] = []
    for record in records:
        try:
            awards.append(Award(record, decode_points_awarded(record.value)))
        except PoisonRecordError as error:
            dead.append(Dead(record, Reason.POISON, str(error)))
    return awards, dead


def ledger_rows(awards: Iterable[Award]) -> list[Award]:
    """Return the first of each ref_id, in the order in which everyone writes them."""
    first: dict[str, Award] = {}
    for award in awards:
        first.setdefault(award.event.ref_id, award)
    return [first[ref_id] for ref_id in sorted(first)]


def accounts(awards: Iterable[Award]) -> list[str]:
    """Return the users whose accounts a batch moves, in the order in which everyone locks them."""
    return sorted({award.event.user_id for award in awards})


def is_new(ref_id: str, known: Mapping[str, Recorded]) -> bool:
    """Tell whether the ledger's row of an award was written by this transaction, and not by any other."""
    return ref_id not in known


def judge(awards: Iterable[Award], known: Mapping[str, Recorded]) -> tuple[Outcome, list[Movement]]:
    """Say what became of each award, and which of them move their accounts.

    Args:
        awards: the batch.
        known: ref_id → what the ledger has, for those whose row another transaction has written; read back after the
            insert. The rows of all others are this transaction's, made from the first award of each.
    """
    outcome = Outcome()
    moves: list[Movement] = []
    rows = {ref_id: row for ref_id, row in known.items() if not is_new(ref_id, known)}
    for award in awards:
        wanted = award.movement
        row = rows.get(wanted.ref_id)
        if row is None:
            rows[wanted.ref_id] = Recorded(wanted.user_id, wanted.delta)
            outcome.new += 1
            moves.append(wanted)
        elif compare(row, wanted) is Moved.KNOWN:
            outcome.duplicates += 1
        else:
            text = f"the draw is known with {row.delta} points for {row.user_id!r}, and came with {wanted.delta}"
            outcome.dead.append(Dead(award.record, Reason.OTHER_PAYLOAD, f"{text} for {wanted.user_id!r}"))
    return outcome, moves
