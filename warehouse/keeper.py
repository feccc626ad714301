"""The warehouse's keeper: what the catalog, the orders and Redis owe one another and nobody waits for.

It has parcels leave, stay and come back that fg_orders has decided on, opens reviews of paid orders that have none
because an older version made them paid, finishes loads, top-ups and closes of campaigns that
whoever began them has not, and gives back to the warehouse what comes back to closed campaigns. Each of these is found
in MySQL, done, and then noted as done, so that a keeper that dies leaves nothing undone and nothing done twice; several
may run.
"""

from collections.abc import Callable
from typing import Final

from adapters.rounds import Rounds, RoundsMetrics, Work
from domain.settings import WarehouseSettings
from warehouse import campaigns, missing_reviews, steps
from warehouse.rules import BookingKind
from warehouse.stores import Stores

STEPS_AT_ONCE: Final = 100
"""Parcels that one transaction of each schema moves."""
REVIEWS_POLL_S: Final = 60.0
"""How often paid orders without a review are looked for: there are none, unless an old process is still about."""


class WarehouseKeeper:
    """Does what is owed.

    Args:
        settings: how often and how much at once.
        stores: both schemas and Redis.
        metrics: told of all that happens.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self, settings: WarehouseSettings, *, stores: Stores, metrics: RoundsMetrics, now_ms: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._metrics = metrics
        self._now_ms = now_ms
        self._settled_run_id = ""
        poll_s = settings.poll_ms / 1000
        works = {
            "ship": Work(self.ship, poll_s),
            "cancel": Work(self.cancel, poll_s),
            "return": Work(self.take_back, poll_s),
            "review": Work(self.open_reviews, REVIEWS_POLL_S),
            "finish": Work(self.finish, poll_s),
            "settle": Work(self.settle, settings.settle_poll_s),
        }
        self._rounds = Rounds(works, metrics, batch_max=settings.batch_max, retry_initial_s=settings.retry_initial_s)

    async def run_once(self) -> int:
        """Do one round of every kind of work, one after the other; returns how much was taken up.

        Raises:
            BackendError: a server is away.
        """
        return await self._rounds.run_once()

    async def run(self) -> None:
        """Work until `stop`. Kinds of work do not wait for one another: a Redis that is away holds up no parcel.

        Raises:
            Exception: something unforeseen; whoever supervises starts the process again.
        """
        await self._rounds.run()

    def stop(self) -> None:
        """Have `run` end after the present rounds."""
        self._rounds.stop()

    async def ship(self) -> int:
        """Have approved orders leave the house; returns how many were taken up."""
        return await self._carry_out("ship", BookingKind.SHIP)

    async def cancel(self) -> int:
        """Have parcels stay in the house that were approved and then rejected; returns how many were taken up."""
        return await self._carry_out("cancel", BookingKind.CANCEL)

    async def take_back(self) -> int:
        """Take in parcels that came back; returns how many were taken up."""
        return await self._carry_out("return", BookingKind.RETURN)

    async def open_reviews(self) -> int:
        """Open reviews of paid orders that have none; returns how many."""
        count = await missing_reviews.open_missing(self._stores.orders, self._settings.batch_max)
        self._metrics.done("review", count)
        return count

    async def finish(self) -> int:
        """Finish loads, top-ups and closes of campaigns that were left half done; returns how many were taken up."""
        count = await campaigns.finish_due(self._stores, self._settings, self._now_ms())
        self._metrics.done("finish", count)
        return count

    async def settle(self) -> int:
        """Give back to the warehouse what came back to closed campaigns; returns of how many campaigns something did.

        All of them are asked when Redis is another than it was, for it may have gone back to an older state.
        """
        run_id = await self._stores.channel.connect()
        count = await campaigns.settle_closed(
            self._stores, self._settings, self._now_ms(), everything=run_id != self._settled_run_id
        )
        self._settled_run_id = run_id
        self._metrics.done("settle", count)
        return count

    async def _carry_out(self, work: str, kind: BookingKind) -> int:
        stores = self._stores
        due = await steps.due_steps(stores.orders, kind, self._now_ms(), self._settings.batch_max)
        for start in range(0, len(due), STEPS_AT_ONCE):
            if self._rounds.stopped:
                break
            some = due[start : start + STEPS_AT_ONCE]
            errors = await steps.attempt(stores.catalog, stores.orders, some, self._settings, self._now_ms)
            for _ in errors:
                self._metrics.put_off(work)
            self._metrics.done(work, len(some) - len(errors))
        return len(due)
