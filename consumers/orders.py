"""The writer of accepted orders: its store is `consumers.orders_sql`, the rest is what all writers do."""

import logging
import random
import time
from collections.abc import Callable
from typing import Any

from adapters.mysql import Pool
from consumers.batch import Item, Outcome
from consumers.dead_letters import DeadLetters
from consumers.metrics import ConsumerMetrics
from consumers.orders_sql import OrderStore, Prepared
from consumers.writer import STALL_AFTER_S, Writer
from domain.settings import Settings

_log = logging.getLogger(__name__)


class OrderWriter(Writer[Item, Prepared]):
    """Stores accepted orders, or prizes that were won.

    Args:
        pool: the database fg_orders.
        prizes: the records tell of draws that won.

    The other arguments are those of `Writer`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pool: Pool,
        make_consumer: Callable[[], Any],
        dead_letters: DeadLetters,
        metrics: ConsumerMetrics,
        stall_after_s: float = STALL_AFTER_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        prizes: bool = False,
    ) -> None:
        super().__init__(
            settings,
            store=OrderStore(pool, prizes=prizes),
            make_consumer=make_consumer,
            dead_letters=dead_letters,
            metrics=metrics,
            stall_after_s=stall_after_s,
            now_ms=now_ms,
            monotonic=monotonic,
            jitter=jitter,
        )

    def _tell(self, outcome: Outcome) -> None:
        if not outcome.second:
            return
        self._metrics.second_deductions(len(outcome.second))
        first = outcome.second[0]
        text = "%d records told of a second deduction, the first of order %s from %s; Redis gets the units back"
        _log.warning(text, len(outcome.second), first.event.order_id, first.origin)
