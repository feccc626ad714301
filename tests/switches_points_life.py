"""Switches for what surrounds the saga of a redemption: points that go back, what people decide, what is reconciled."""

import secrets
from collections.abc import Callable
from typing import Any, Final

from tests.support.hooks import replace


def points_back_by_the_sagas_step() -> None:
    """Points are given back by a movement of their own, whoever has given them back before."""
    from adapters.points import move_once
    from domain.points import LedgerKind, Movement
    from domain.saga import StepOutcome
    from lifecycle import point_refunds

    async def give(pool: Any, _saga_id: str, user_id: str, points: int, *, at_ms: int) -> StepOutcome:
        wanted = Movement(f"back-{secrets.token_hex(16)}", LedgerKind.REFUND, user_id, points)
        await move_once(pool, wanted, at_ms=at_ms)
        return StepOutcome.DONE

    replace(point_refunds, "refund_points", give)


def points_not_the_providers() -> None:
    """The provider is asked for everything that has to go back, points as well."""
    from lifecycle import payment_rows

    replace(payment_rows, "_DUE", payment_rows._DUE.replace("AND points = 0 ", ""))


def callbacks_about_money() -> None:
    """The provider has its say about payments in points."""
    from lifecycle import payment_rows

    find = payment_rows.find_payment

    async def in_money(pool: Any, which: str) -> Any:
        found = await find(pool, which)
        return None if found is None else found._replace(points=0)

    replace(payment_rows, "find_payment", in_money)


def sagas_in_flight() -> None:
    """The reconciler knows of no saga."""
    from consumers import reconcile_rules

    replace(reconcile_rules, "SAGA", 0)


def points_reconciled() -> None:
    """The ledger of points is held against nothing."""
    from consumers import reconcile_rules

    replace(reconcile_rules, "_points_faults", lambda _look: {})


def reissued_to_their_topic() -> None:
    """Whatever is made anew is an order that is paid with money."""
    from consumers.repair import Repairer

    record = Repairer._record
    replace(Repairer, "_record", lambda self, _kind, event: record(self, "sale", event))


def people_turn_running_sagas() -> None:
    """A person turns a saga back, whichever way it goes."""
    from consumers import saga_desk

    replace(saga_desk, "why_not_compensated", lambda _saga: "")
    anyway = saga_desk._COMPENSATE.replace("AND status = %s", "AND %s IS NOT NULL")
    replace(saga_desk, "_COMPENSATE", anyway)


def parked_sagas_keep_what_they_have() -> None:
    """The letter of a parked saga is dropped as any other."""
    from consumers import dead_letter_sagas

    replace(dead_letter_sagas, "_FIND", dead_letter_sagas._FIND.replace("parked_at_ms IS NOT NULL", "FALSE"))


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "points_back_by_the_sagas_step": points_back_by_the_sagas_step,
    "points_not_the_providers": points_not_the_providers,
    "callbacks_about_money": callbacks_about_money,
    "sagas_in_flight": sagas_in_flight,
    "points_reconciled": points_reconciled,
    "reissued_to_their_topic": reissued_to_their_topic,
    "people_turn_running_sagas": people_turn_running_sagas,
    "parked_sagas_keep_what_they_have": parked_sagas_keep_what_they_have,
}
