"""Switches for the reconciler: what it takes for drift, and what it repairs."""

from collections.abc import Callable
from typing import Final

from tests.support.hooks import replace


def second_look() -> None:
    """What the first look suspects is drift."""
    from consumers import reconcile

    replace(reconcile, "LOOKS_MAX", 1)


def returns_known_as_owed() -> None:
    """What MySQL owes to Redis is not looked at."""
    from consumers.reconcile_look import CampaignLook

    def ignore(_self: CampaignLook, _key: str, _sku_id: str, *, second: bool) -> None:
        del second

    replace(CampaignLook, "pending_return", ignore)


def relay_caught_up() -> None:
    """An entry that is gone is published anew at once, wherever the relay is."""
    from consumers.reconcile_rules import Verdict

    replace(Verdict, "all_relayed", property(lambda _self: True))


def release_proved_again() -> None:
    """A release is given back as it was planned, whatever MySQL says by then."""
    from consumers import repair

    replace(repair, "why_not_released", lambda _action, _row: "")


def stock_as_decided_upon() -> None:
    """A record is put back whatever has become of stock since the decision."""
    from tests.switches_stock import alter_script

    alter_script(
        "restore_record",
        "if s.taken ~= tonumber(ARGV[4]) or s.returned ~= tonumber(ARGV[5]) then return STOCK_MOVED end",
        "",
    )


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "second_look": second_look,
    "returns_known_as_owed": returns_known_as_owed,
    "relay_caught_up": relay_caught_up,
    "release_proved_again": release_proved_again,
    "stock_as_decided_upon": stock_as_decided_upon,
}
