"""Switches for the lottery: its scripts, its log, its way back after a loss."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.support.hooks import replace
from tests.switches_stock import alter_script


def draw_replay() -> None:
    """A draw that is asked again is not found in the buyer's record."""
    alter_script("draw_prize", "= find_draw(record, id)", "= nil, nil, nil, nil")


def draws_limited() -> None:
    """A user may draw as often as he likes."""
    alter_script("draw_prize", "if n > draws_max or prizes.total == 0 then", "if prizes.total == 0 then")


def prizes_run_out() -> None:
    """A prize that is gone keeps its weight."""
    alter_script("draw_prize", "if prize.stock.remaining > 0 then", "if true then")


def corrupt_draws_refused() -> None:
    """A record that cannot be read is taken for an empty one."""
    empty = "record = record or {full_u, now_us, {}, {}}"
    alter_script("draw_prize", "if not record then return refused(CORRUPT_RECORD) end", empty)


def draws_checked_before_written() -> None:
    """The script does not look at the log of holders before it writes."""
    alter_script("draw_prize", "redis.call('STRLEN', KEYS[4])", "")


def draws_wait_for_the_opening() -> None:
    """A lottery whose log does not say what is drawn from is drawn from all the same."""
    alter_script("draw_prize", "tonumber(c[15]), c[16]", "tonumber(c[15]) or 0, c[16] or ''")


def stock_moves_logged() -> None:
    """What gives prizes back or adds some says nothing of it in the log."""
    for name in ("topup_stock", "release_stock", "return_duplicate", "withdraw_stock"):
        alter_script(name, "if not c[1] then return end", "if true then return end")


def withdrawals_come_back() -> None:
    """Recovery puts back what was withdrawn from a lottery, and not that it was."""
    alter_script("restore_draws", "if opened then redis.call('DEL', KEYS[8]) end", "")
    alter_script("restore_draws", "redis.call('HSET', KEYS[8], sku, units)", "")


def lost_top_ups_made_again() -> None:
    """Recovery does not make top-ups again whose lines are lost."""
    from gateway import recovery

    def none(_catalog: Any, _here: Any) -> tuple[list[Any], list[Any]]:
        return [], []

    replace(recovery, "lost_top_ups", none)


def openings_name_the_top_ups() -> None:
    """Of a lottery that has lost its opening Redis keeps the keys of top-ups, also of those whose units it has not."""
    alter_script("restore_draws", "if opened then redis.call('DEL', KEYS[5]) end", "")


def drawn_as_opened() -> None:
    """A lottery that has lost its opening takes prizes from the log, and limits from the file that Redis has."""
    line = "redis.call('HSET', KEYS[1], pair[1], pair[2])"
    alter_script("restore_draws", line, f"if pair[1] == 'prizes' then {line} end")


def lotteries_close_in_their_log() -> None:
    """Whoever withdraws what is left of a lottery closes it as he closes a sale."""
    from adapters.campaign_stock import move_campaign
    from warehouse import closing

    async def close(channel: Any, _client: Any, campaign_id: str, verb: str) -> tuple[str, bool]:
        return await move_campaign(channel, campaign_id, verb)

    replace(closing, "move", close)


def lost_lotteries_closed_again() -> None:
    """Nobody is told to close a lottery again that Redis has lost after its close."""
    from warehouse import closing

    async def forget(_stores: Any, _campaign_id: str, _now_ms: int) -> None:
        return

    replace(closing, "owe_again", forget)


def log_goes_on() -> None:
    """Recovery puts an entry of the log back wherever Redis is."""
    alter_script("restore_draws", "then return {BROKEN_CHAIN, 0} end", "then end")


def lotteries_recovered() -> None:
    """Recovery does not look at a lottery's log."""
    from gateway.draw_recovery import LotteryRecovery

    async def nothing(_self: LotteryRecovery, _campaign_id: str, _since_ms: int, _run_id: str) -> None:
        return None

    replace(LotteryRecovery, "restore", nothing)


def log_goes_first() -> None:
    """The relay publishes what follows from a log before the log."""
    from gateway.outbox_source import Entry
    from gateway.relay import Records, Relay

    to_records = Relay._to_records

    def reversed_(self: Relay, entries: Sequence[Entry]) -> Records:
        logs, others, orders = to_records(self, entries)
        return Records(others, logs, orders)

    replace(Relay, "_to_records", reversed_)


def wins_follow_recovery() -> None:
    """Recovery publishes nothing of what it has put back."""
    from gateway import draw_recovery

    def none(_log: Any) -> list[Any]:
        return []

    replace(draw_recovery, "won_records", none)


def holes_keep_the_gate_closed() -> None:
    """Recovery takes from Kafka's log what fits, and does not mind the rest."""
    from gateway import draw_recovery

    def any_(_campaign_id: str, _head: Any, _logs: Any) -> list[Any]:
        return []

    replace(draw_recovery, "missing_logs", any_)


def opened_lotteries_frozen() -> None:
    """A file may change what a lottery draws from while it is being drawn from."""
    read = "unpack(redis.call('HMGET', KEYS[1], 'kind', 'log_seq'))"
    alter_script("load_campaign", read, "redis.call('HGET', KEYS[1], 'kind'), nil")


def seed_kept_secret() -> None:
    """The seed is told as soon as there is one."""
    import dataclasses

    from gateway import view

    make = view._lottery

    def open_(snapshot: Any) -> Any:
        return dataclasses.replace(make(snapshot), is_revealed=True)

    replace(view, "_lottery", open_)


def prizes_kept() -> None:
    """A prize is given back as an order that is not paid is cancelled."""
    from gateway import life_calls

    def never(_order: Any) -> bool:
        return False

    replace(life_calls, "_is_prize", never)


def draws_replayed_after_refusal() -> None:
    """A worker that refuses draws from memory does not ask who has drawn."""
    from gateway.campaigns import Campaigns

    def nobody(_self: Campaigns, _campaign_id: str, _user_hash: bytes) -> bool:
        return False

    replace(Campaigns, "may_hold", nobody)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    switch.__name__: switch
    for switch in (
        draw_replay,
        draws_limited,
        prizes_run_out,
        corrupt_draws_refused,
        draws_checked_before_written,
        draws_wait_for_the_opening,
        stock_moves_logged,
        withdrawals_come_back,
        lost_top_ups_made_again,
        openings_name_the_top_ups,
        drawn_as_opened,
        lotteries_close_in_their_log,
        lost_lotteries_closed_again,
        log_goes_on,
        lotteries_recovered,
        log_goes_first,
        wins_follow_recovery,
        holes_keep_the_gate_closed,
        opened_lotteries_frozen,
        seed_kept_secret,
        prizes_kept,
        draws_replayed_after_refusal,
    )
}
