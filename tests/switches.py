"""Mechanisms that a test run can turn off, to prove that the tests that guard them notice.

The environment variable FG_SWITCH_OFF names one. The product knows nothing of this: a switch replaces code at run
time. `tests/mechanisms.toml` says which test guards which.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tests import (
    switches_allocations,
    switches_consumers,
    switches_deadletter,
    switches_guard,
    switches_http,
    switches_life,
    switches_load,
    switches_lottery,
    switches_outbound,
    switches_points,
    switches_points_life,
    switches_provider,
    switches_reconcile,
    switches_recovery,
    switches_redemption,
    switches_relay,
    switches_saga,
    switches_stock,
    switches_streams,
    switches_warehouse,
)
from tests.support.hooks import replace

if TYPE_CHECKING:
    from consumers.writer import Decoded

VARIABLE: Final = "FG_SWITCH_OFF"


def ledger_decides_new_rows() -> None:
    """Every row of a batch counts as new, whoever wrote it."""
    from consumers import batch

    def always(_deduction: batch.Deduction, _known: Mapping[batch.Deduction, batch.Origin]) -> bool:
        return True

    replace(batch, "is_new", always)


def bisect() -> None:
    """A batch in which MySQL refuses something is given up as a whole."""
    from consumers.batch import Dead, Outcome, Reason
    from consumers.writer import Writer

    async def give_up(_self: "Writer[Any, Any]", items: "Sequence[Decoded]", error: Exception) -> Outcome:
        return Outcome(dead=[Dead(item.record, Reason.REFUSED, str(error)) for item in items])

    replace(Writer, "_bisect", give_up)


def counters_locked_first() -> None:
    """Counters are read without being locked before the rows that refer to them are written."""
    from consumers import orders_sql

    replace(orders_sql, "_LOCK", orders_sql._LOCK.replace("FOR UPDATE", ""))


def payloads_compared() -> None:
    """A known order is taken for the same order whatever it is about."""
    from consumers import batch

    def keep_all(
        items: Iterable[batch.Item],
        _stored: Mapping[str, batch.Payload],
    ) -> tuple[list[batch.Item], list[batch.Dead]]:
        return list(items), []

    replace(batch, "split_other_payload", keep_all)


def offsets_wait_for_dead_letters() -> None:
    """A dead letter that could not be written is forgotten."""
    from consumers.batch import Dead
    from consumers.dead_letters import DeadLetters
    from domain.errors import BackendError

    send = DeadLetters.send

    async def forget(self: DeadLetters, dead: Sequence[Dead]) -> None:
        with contextlib.suppress(BackendError):
            await send(self, dead)

    replace(DeadLetters, "send", forget)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "ledger_decides_new_rows": ledger_decides_new_rows,
    "bisect": bisect,
    "counters_locked_first": counters_locked_first,
    "payloads_compared": payloads_compared,
    "offsets_wait_for_dead_letters": offsets_wait_for_dead_letters,
    **switches_allocations.SWITCHES,
    **switches_consumers.SWITCHES,
    **switches_life.SWITCHES,
    **switches_lottery.SWITCHES,
    **switches_outbound.SWITCHES,
    **switches_stock.SWITCHES,
    **switches_load.SWITCHES,
    **switches_relay.SWITCHES,
    **switches_http.SWITCHES,
    **switches_deadletter.SWITCHES,
    **switches_provider.SWITCHES,
    **switches_reconcile.SWITCHES,
    **switches_recovery.SWITCHES,
    **switches_redemption.SWITCHES,
    **switches_streams.SWITCHES,
    **switches_points.SWITCHES,
    **switches_points_life.SWITCHES,
    **switches_saga.SWITCHES,
    **switches_warehouse.SWITCHES,
    **switches_guard.SWITCHES,
}


def apply(name: str) -> None:
    """Turn a mechanism off in this process, for good."""
    SWITCHES[name]()


def apply_from_environment() -> None:
    """Turn off what the environment names, if anything. Child processes inherit the name and call this too."""
    name = os.environ.get(VARIABLE)
    if name:
        apply(name)
