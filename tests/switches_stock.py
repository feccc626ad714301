"""Switches for what stands before Kafka: scripts, the channel that calls them, relay, tokens, supervisor."""

import hashlib
from collections.abc import Sequence
from typing import Any

from adapters.lua import Script
from tests.support import hooks
from tests.support.hooks import replace


def alter_script(name: str, old: str, new: str) -> None:
    """Have a script loaded with one piece of its text replaced."""
    from adapters import lua

    assemble = lua.assemble

    def altered(loaded: str, text: str) -> Script:
        whole = assemble(loaded, text)
        if loaded != name:
            return whole
        if old not in whole.text:
            raise LookupError(f"{name} has no {old!r} any more")  # not an assertion, which would count as a proof
        changed = whole.text.replace(old, new)
        return Script(loaded, changed, hashlib.sha1(changed.encode(), usedforsecurity=False).hexdigest())

    lua.load_script.cache_clear()
    replace(lua, "assemble", altered)


def buyer_record_replay() -> None:
    """A known order is not found in the buyer's record."""
    alter_script("admit_orders", "if attempt[ORDER] == order then return attempt end", "")


def run_id_fence() -> None:
    """Orders are admitted whatever the server's run id is."""
    alter_script("admit_orders", "if c[8] ~= ARGV[1] then return {FENCED} end", "")


def quantity_checked_in_script() -> None:
    """The script takes any quantity."""
    alter_script("admit_orders", "return INVALID_QUANTITY, 0", "")


def checks_before_writes() -> None:
    """The script touches the outbox only after it has written the stock."""
    append = "last_id = redis.call('XADD', KEYS[3], '*', 't', now_ms, 'p', last_id, 'orders', packed_items)"
    alter_script("admit_orders", "redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[4])", "false")
    after = "holders_length = redis.call('APPEND', KEYS[4], hashes_at(ARGV[5], holders, count))"
    alter_script("admit_orders", append, "")
    alter_script("admit_orders", after, f"{after} {append}")


def scripts_reloaded() -> None:
    """A script that Redis has forgotten is not loaded a second time."""
    from redis.exceptions import ResponseError

    from adapters.redis import ScriptChannel

    ask = ScriptChannel._ask
    loaded: set[Any] = set()

    async def once(connection: Any, *command: Any) -> Any:
        if command[0] == "EVAL":
            if command[1] in loaded:
                raise ResponseError("not loaded again")
            loaded.add(command[1])
        return await ask(connection, *command)

    replace(ScriptChannel, "_ask", staticmethod(once))


def client_retries_off() -> None:
    """A call whose reply was lost is sent again by itself."""
    from adapters.redis import ScriptChannel
    from domain.errors import OutcomeUnknownError

    call = ScriptChannel.call

    async def persistent(self: ScriptChannel, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        for _ in range(2):
            try:
                return await call(self, script, keys, args)
            except OutcomeUnknownError:
                continue
        return await call(self, script, keys, args)

    replace(ScriptChannel, "call", persistent)


def connection_discarded() -> None:
    """A connection on which a call was cancelled is used again."""
    from adapters.redis import ScriptChannel

    def keep(_self: ScriptChannel) -> None:
        return

    replace(ScriptChannel, "_discard", keep)


def log_before_answer() -> None:
    """Redis answers without having written its log."""

    async def before_crash(client: Any) -> None:
        await client.config_set("appendonly", "no")

    replace(hooks, "before_crash", before_crash)


def checkpoint_after_acknowledgement() -> None:
    """The relay moves its checkpoint when it has read, not when Kafka has acknowledged."""
    from gateway.outbox_source import Entry, OutboxSource

    read = OutboxSource.read

    async def hasty(self: OutboxSource, positions: dict[str, str], **how: int) -> list[Entry]:
        entries = await read(self, positions, **how)
        for entry in entries:
            await self.advance(entry.campaign_id, entry.outbox_id)
        return entries

    replace(OutboxSource, "read", hasty)


def failed_publication_repeated() -> None:
    """The relay goes on after a publication that failed."""
    from domain.errors import BackendError
    from gateway.publisher import KafkaPublisher

    publish = KafkaPublisher.publish

    async def careless(self: KafkaPublisher, records: Sequence[Any]) -> None:
        try:
            await publish(self, records)
        except BackendError:
            return

    replace(KafkaPublisher, "publish", careless)


def dead_children_restarted() -> None:
    """A child that dies stays dead."""
    from stack.supervisor import Supervisor

    def forgetful() -> Supervisor:
        return Supervisor(backoff_initial_s=3_600.0, backoff_max_s=3_600.0)

    replace(hooks, "make_supervisor", forgetful)


def signature_checked() -> None:
    """A token is believed whatever its signature, and whatever algorithm it names."""
    from gateway import identity

    def any_signature(_mac: Any, _signed: bytes, _signature: bytes) -> bool:
        return True

    def any_header(_self: identity.Verifier, _header: bytes) -> None:
        return

    replace(identity, "is_signed", any_signature)
    replace(identity.Verifier, "_check_header", any_header)


def user_in_order_id() -> None:
    """An order's identity is campaign and key alone."""
    from domain.order import order_id
    from gateway import orders

    def same_for_all(campaign_id: str, _user_id: str, key: str) -> str:
        return order_id(campaign_id, "", key)

    replace(orders, "order_id", same_for_all)


SWITCHES = {
    switch.__name__: switch
    for switch in (
        buyer_record_replay,
        run_id_fence,
        quantity_checked_in_script,
        checks_before_writes,
        scripts_reloaded,
        client_retries_off,
        connection_discarded,
        log_before_answer,
        checkpoint_after_acknowledgement,
        failed_publication_repeated,
        dead_children_restarted,
        signature_checked,
        user_in_order_id,
    )
}
