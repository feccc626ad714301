"""Switches for the writers of accepted orders: what is owed for second deductions, pauses, silent transactions."""

from collections.abc import Callable, Iterable
from typing import Final

from tests.support.hooks import replace


def second_deductions_owed() -> None:
    """A second deduction is counted, and nobody is told to give its units back."""
    from consumers import batch

    def none(_second: Iterable[batch.Item]) -> list[batch.Item]:
        return []

    replace(batch, "returns", none)


def partitions_paused() -> None:
    """A writer that waits for MySQL leaves Kafka alone meanwhile."""
    from consumers.intake import Intake

    def do_nothing(_self: Intake) -> None:
        return

    replace(Intake, "hold", do_nothing)


def silent_transactions_dropped() -> None:
    """A transaction may be silent for as long as MySQL lets any connection rest."""
    from adapters import mysql

    replace(mysql, "LIMIT_IDLE", "SELECT %s")


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "second_deductions_owed": second_deductions_owed,
    "partitions_paused": partitions_paused,
    "silent_transactions_dropped": silent_transactions_dropped,
}
