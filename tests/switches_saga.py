"""Switches for the sagas of redemptions."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from tests.support.hooks import replace


def tombstones() -> None:
    """A compensation looks whether its step was done, and leaves nothing in its place."""
    from adapters import saga_guards, saga_points
    from consumers import saga_orders
    from domain.saga import SagaStep, StepOutcome

    async def look(cursor: Any, step: SagaStep, saga_ids: Collection[str], *, at_ms: int) -> Collection[str]:
        del at_ms
        known = await saga_guards._known(cursor, step, sorted(saga_ids), b"")
        return {saga_id for saga_id, outcome in known.items() if outcome is StepOutcome.DONE}

    for module in (saga_points, saga_orders):
        replace(module, "bury", look)


async def _enter_unseen(cursor: Any, step: Any, saga_ids: Collection[str], **more: Any) -> Mapping[str, Any]:
    """Write guards as ever, and say that none was there."""
    from adapters import saga_guards

    await saga_guards.enter(cursor, step, saga_ids, **more)
    return {}


def guard_of_points() -> None:
    """A step in fg_points does not look whether it was done, or taken back."""
    from adapters import saga_points

    replace(saga_points, "enter", _enter_unseen)


def guard_of_orders() -> None:
    """A step in fg_orders does not look whether it was done, or taken back."""
    from consumers import saga_orders

    replace(saga_orders, "enter", _enter_unseen)


def direction_compared() -> None:
    """A saga's row is changed whatever has become of it since it was read."""
    from consumers import saga_rows

    def always(_found: saga_rows.SagaRow, _read: saga_rows.SagaRow) -> bool:
        return True

    replace(saga_rows, "is_as_read", always)


def sagas_picked_up() -> None:
    """A saga that somebody has taken up is his, whatever becomes of him."""
    from consumers import saga_rows

    replace(saga_rows, "_LEASE", "UPDATE saga SET next_at_ms = NULL WHERE %s IS NOT NULL AND saga_id IN %s")


def sagas_parked() -> None:
    """A step that fails is tried again for ever."""
    from consumers import saga_driver
    from domain.saga import Later

    def later(attempts: int, *, now_ms: int, **_settings: float) -> Later:
        return Later(attempts + 1, now_ms)

    replace(saga_driver, "after_failure", later)


def outages_not_counted() -> None:
    """A server that is away counts as a failure of each saga that needs it."""
    from consumers.saga_driver import SagaDriver

    replace(SagaDriver, "_failed", SagaDriver._count_failure)


def refusals_split() -> None:
    """Sagas whose shared transaction is refused all count as refused."""
    from adapters.mysql import DataRefusedError
    from consumers.saga_driver import SagaDriver
    from consumers.saga_rows import SagaRow
    from domain.saga import SagaStep

    async def all_refused(self: SagaDriver, step: SagaStep, sagas: Sequence[SagaRow]) -> list[SagaRow]:
        error = DataRefusedError("all of them")
        return [row for one in sagas for row in await self._refused(step, one, error)]

    replace(SagaDriver, "_split", all_refused)


def parked_resumed() -> None:
    """A parked saga stays parked when its record comes again."""
    from consumers import redemptions

    replace(redemptions, "_RESUME", "UPDATE saga SET version = version WHERE %s < 0 AND saga_id IN %s")


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "tombstones": tombstones,
    "guard_of_points": guard_of_points,
    "guard_of_orders": guard_of_orders,
    "direction_compared": direction_compared,
    "sagas_picked_up": sagas_picked_up,
    "sagas_parked": sagas_parked,
    "refusals_split": refusals_split,
    "parked_resumed": parked_resumed,
    "outages_not_counted": outages_not_counted,
}
