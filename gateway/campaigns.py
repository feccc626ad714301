"""Campaigns in a worker's memory, refreshed when a change is announced, and by polling besides."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import redis.asyncio as redis

from adapters.redis import ANSWERS_LOST
from adapters.stock import list_campaigns, read_snapshot
from domain import keys
from domain.errors import BackendError, PoisonRecordError
from gateway.holders import HASH_BYTES, Holders
from gateway.view import VIEW_AGE_MAX_S, CampaignView, LooseGuard, make_view

log = logging.getLogger(__name__)

HASHES_AT_ONCE: Final = 10_000
"""A long log of holders is read in pieces, so that the worker goes on answering meanwhile."""

LISTEN_PAUSE_S: Final = 0.2

HOLDERS_EVERY_S: Final = 0.02


class Campaigns:
    """The views, the holder filters and the loose guards of all campaigns, by campaign id."""

    def __init__(
        self,
        client: "redis.Redis",
        listener: "redis.Redis",
        on_watermark: Callable[[str, str, str], None],
        *,
        poll_s: float,
    ) -> None:
        """Take two clients: one for reads, one of its own for the blocking subscription."""
        self._client = client
        self._listener = listener
        self._on_watermark = on_watermark
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._stale: set[str] = set()
        self._read_to: dict[str, int] = {}
        self._guarded: set[str] = set()
        self._unreadable: set[str] = set()
        self._guard_refused = asyncio.Event()
        self.views: dict[str, CampaignView] = {}
        self.holders: dict[str, Holders] = {}
        self.guards: dict[str, LooseGuard] = {}
        self.read_at_s = float("-inf")
        """Monotonic time of the last complete refresh."""

    def sold_out_hint(self, campaign_id: str, sold_out: dict[str, int]) -> None:
        """Have a campaign re-read, if a batch came upon a sold-out SKU that the view does not show yet."""
        view = self.views.get(campaign_id)
        for sku, epoch in sold_out.items():
            if view is None or sku not in view.sold_out or view.sold_out[sku].epoch < epoch:
                self._stale.add(campaign_id)
                self._wake.set()
                return

    def may_hold(self, campaign_id: str, user_hash: bytes) -> bool:
        """Tell whether a buyer may hold something, as of the view; while that is being read, everyone may."""
        holders = self.holders.get(campaign_id)
        return holders is None or user_hash in holders

    def guard_refused(self, campaign_id: str) -> None:
        """Have the log of holders followed closely for a moment, for buyers are being refused by rate."""
        self._guarded.add(campaign_id)
        self._guard_refused.set()

    def give_back_token(self, campaign_id: str) -> None:
        """Give a replay's token back to the loose guard: the exact bucket took none for it either."""
        guard = self.guards.get(campaign_id)
        if guard is not None:
            guard.give_back()

    def note_holder(self, campaign_id: str, user_hash: bytes) -> None:
        """Remember a buyer whom this worker has just seen accepted; the log tells of those at other workers."""
        holders = self.holders.get(campaign_id)
        if holders is not None:
            holders.note(user_hash)

    def is_unknown(self, campaign_id: str, now_s: float) -> bool:
        """Tell whether there is certainly no such campaign: not while the list is old, or the campaign unreadable."""
        listed = now_s - self.read_at_s <= VIEW_AGE_MAX_S
        return listed and campaign_id not in self.views and campaign_id not in self._unreadable

    async def refresh(self, campaign_id: str) -> None:
        """Re-read one campaign.

        Raises:
            BackendError: Redis is not there.
            PoisonRecordError: a stock line cannot be read.
        """
        # The time before the question: Redis's clock is then thought ahead rather than behind.
        now_s = time.monotonic()
        before, start = self.views.get(campaign_id), self._read_to.get(campaign_id, 0)
        snapshot = await read_snapshot(self._client, campaign_id, start)
        if snapshot is not None and start and (before is None or before.run_id != snapshot.fields["run_id"]):
            # Another Redis, whose log is another one: read it from its start, and forget nobody.
            start, now_s = 0, time.monotonic()
            snapshot = await read_snapshot(self._client, campaign_id)
        if snapshot is None:
            self._forget(campaign_id)
            return
        holders = self.holders.get(campaign_id) or Holders()
        step = HASHES_AT_ONCE * HASH_BYTES
        for piece in range(0, len(snapshot.holders), step):
            holders.add_log(snapshot.holders[piece : piece + step])
            await asyncio.sleep(0)
        view = make_view(campaign_id, snapshot, now_s)
        if before is None or (before.admit_per_s, before.admit_burst) != (view.admit_per_s, view.admit_burst):
            self.guards[campaign_id] = LooseGuard(view.admit_per_s, view.admit_burst, now_s)
        self._read_to[campaign_id] = start + len(snapshot.holders)
        self.holders[campaign_id] = holders
        self.views[campaign_id] = view
        self._on_watermark(campaign_id, snapshot.checkpoint, view.run_id)

    def _forget(self, campaign_id: str) -> None:
        for memory in (self.views, self.holders, self.guards, self._read_to):
            memory.pop(campaign_id, None)

    async def refresh_all(self) -> None:
        """Re-read the list of campaigns and each of them.

        Raises:
            BackendError: Redis is not there.
        """
        wanted = set(await list_campaigns(self._client))
        for campaign_id in wanted | set(self.views):
            try:
                await self.refresh(campaign_id)
            except PoisonRecordError:
                log.exception("campaign %s cannot be read; its buyers are told to come back", campaign_id)
                self.views.pop(campaign_id, None)
                self._unreadable.add(campaign_id)
            else:
                self._unreadable.discard(campaign_id)
        self.read_at_s = time.monotonic()

    async def run_polling(self) -> None:
        """Refresh for ever: what was announced at once, everything every poll interval."""
        next_poll = 0.0
        while True:
            try:
                if time.monotonic() >= next_poll:
                    self._stale.clear()
                    await self.refresh_all()
                    next_poll = time.monotonic() + self._poll_s
                while self._stale:
                    await self.refresh(self._stale.pop())
            except (BackendError, PoisonRecordError) as error:
                log.warning("campaigns not refreshed: %s", error)
                next_poll = time.monotonic() + self._poll_s
            self._wake.clear()
            try:
                async with asyncio.timeout(max(0.01, next_poll - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def run_listening(self) -> None:
        """Listen to announcements for ever; whatever is missed meanwhile, polling finds."""
        while True:
            try:
                async with self._listener.pubsub(ignore_subscribe_messages=True) as announcements:
                    await announcements.subscribe(keys.CHANGES, keys.WATERMARKS)
                    while True:
                        message = await announcements.get_message(timeout=self._poll_s)
                        if message is not None:
                            self._hear(message["channel"].decode(), message["data"].decode())
            except ANSWERS_LOST as error:
                log.info("announcements interrupted: %s", error)
                await asyncio.sleep(LISTEN_PAUSE_S)

    async def run_following(self) -> None:
        """While a guard refuses, read the log of holders often: a retry may come to another worker than its order."""
        while True:
            await self._guard_refused.wait()
            self._guard_refused.clear()
            try:
                while self._guarded:
                    await self._follow(self._guarded.pop())
            except ANSWERS_LOST as error:
                log.info("holders not followed: %s", error)
            await asyncio.sleep(HOLDERS_EVERY_S)

    async def _follow(self, campaign_id: str) -> None:
        holders, start = self.holders.get(campaign_id), self._read_to.get(campaign_id, 0)
        appended = await self._client.getrange(keys.holders(campaign_id), start, -1)
        unchanged = self.holders.get(campaign_id) is holders and self._read_to.get(campaign_id, 0) == start
        if holders is not None and unchanged and isinstance(appended, bytes):
            holders.add_log(appended)
            self._read_to[campaign_id] = start + len(appended)

    def _hear(self, channel: str, data: str) -> None:
        if channel == keys.WATERMARKS:
            self._on_watermark(*data.split(" "))
        else:
            self._stale.add(data)
            self._wake.set()
