"""Switches for accounts and awards."""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tests.support.hooks import replace


def ledger_decides_awards() -> None:
    """Every award of a batch counts as new, whoever wrote its row."""
    from consumers import award_batch
    from domain.points import Recorded

    def always(_ref_id: str, _known: Mapping[str, Recorded]) -> bool:
        return True

    replace(award_batch, "is_new", always)


def ledger_decides_movements() -> None:
    """What stands in the ledger in the place of a movement is taken for its own."""
    from adapters import points

    def always(_row_nonce: bytes, _nonce: bytes) -> bool:
        return True

    replace(points, "is_ours", always)


def accounts_locked() -> None:
    """A balance is looked at without its account being locked."""
    from adapters import points

    replace(points, "_LOCK", points._LOCK.replace("FOR UPDATE", ""))


def accounts_locked_in_order() -> None:
    """A batch locks its accounts as they come."""
    from consumers import award_batch, awards
    from domain.points import Movement, sums

    def as_they_come(found: Iterable[award_batch.Award]) -> list[str]:
        users = sorted({award.event.user_id for award in found})
        return random.sample(users, len(users))

    def sums_as_they_come(moves: Iterable[Movement]) -> dict[str, int]:
        found = list(sums(moves).items())
        return dict(random.sample(found, len(found)))

    replace(award_batch, "accounts", as_they_come)
    replace(awards, "sums", sums_as_they_come)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "ledger_decides_awards": ledger_decides_awards,
    "ledger_decides_movements": ledger_decides_movements,
    "accounts_locked": accounts_locked,
    "accounts_locked_in_order": accounts_locked_in_order,
}
