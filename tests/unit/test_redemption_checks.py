"""What the checks of a redemption come to; its file; its records for Kafka; its price after a recovery."""

import json
from typing import Any

import msgspec
import pytest

from adapters.catalog import CatalogCampaign, CatalogSku
from adapters.recovery_stock import CampaignStock
from adapters.stock import CampaignGate, StockLine
from domain.campaign import REDEMPTION, SALE, Sku, parse_campaign
from domain.errors import ConfigError, PoisonRecordError
from domain.order import QUANTITY_MAX
from domain.points import BALANCE_MAX
from domain.redemption_events import decode_redemption_accepted
from gateway.order_records import dead_record, order_records
from gateway.outbox_source import Entry
from gateway.recovery_allocations import bring_to_catalog, make_room
from gateway.redemption_rules import SILENT, Told, judge, refuse
from stack.paths import PROJECT_ROOT
from tests.support.redeeming import PRICE, redemption_file, redemption_text
from tests.support.shop import SKU

OPEN = CampaignGate("open", 1_000, 9_000, 5_000)
LINE = StockLine(2, 0, 0, 2, 1, 2, PRICE)
CORRUPT = PoisonRecordError("not a stock line")
GOOD = Told(OPEN, LINE, 2 * PRICE)


@pytest.mark.parametrize(
    ("changes", "verdicts", "code"),
    [
        ({}, ("passed", "passed", "passed"), ""),
        ({"gate": OPEN._replace(state="closed")}, ("ended", "passed", "passed"), "ENDED"),
        ({"gate": OPEN._replace(now_ms=9_000)}, ("ended", "passed", "passed"), "ENDED"),
        ({"gate": OPEN._replace(state="loaded")}, ("not_started", "passed", "passed"), "NOT_STARTED"),
        ({"gate": OPEN._replace(now_ms=999)}, ("not_started", "passed", "passed"), "NOT_STARTED"),
        ({"gate": OPEN._replace(state="paused")}, ("paused", "passed", "passed"), "PAUSED"),
        ({"gate": OPEN._replace(now_ms=1_000)}, ("passed", "passed", "passed"), ""),
        ({"gate": None}, ("unanswered", "passed", "passed"), "BUSY"),
        ({"gate": SILENT}, ("unanswered", "passed", "passed"), "BUSY"),
        ({"line": LINE._replace(remaining=1)}, ("passed", "sold_out", "passed"), "SOLD_OUT"),
        ({"line": None}, ("passed", "unknown_sku", "passed"), "NOT_FOUND"),
        ({"line": CORRUPT}, ("passed", "unanswered", "passed"), "BUSY"),
        ({"line": SILENT}, ("passed", "unanswered", "passed"), "BUSY"),
        ({"line": SILENT, "balance": 0}, ("passed", "unanswered", "passed"), "BUSY"),
        ({"balance": 2 * PRICE - 1}, ("passed", "passed", "points_short"), "POINTS_SHORT"),
        ({"balance": None}, ("passed", "passed", "no_account"), "POINTS_SHORT"),
        ({"balance": SILENT}, ("passed", "passed", "unanswered"), "BUSY"),
        ({"balance": None, "gate": SILENT}, ("unanswered", "passed", "no_account"), "BUSY"),
        ({"balance": SILENT, "line": LINE._replace(remaining=0)}, ("passed", "sold_out", "unanswered"), "SOLD_OUT"),
    ],
)
def test_what_the_checks_come_to(changes: dict[str, Any], verdicts: tuple[str, str, str], code: str) -> None:
    """Two units: what is certain is refused, the campaign first and the points last; a silent store refuses nothing."""
    told = GOOD._replace(**changes)
    judged = judge(told, 2)
    assert judged == verdicts
    refusal = refuse(judged, told, 2)
    assert (json.loads(refusal.answer.body)["code"] if refusal else "") == code


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("points_price = 300\n", "", r"line \d+: sku\[0\].points_price: a redemption needs the points"),
        ("points_price = 300\n", "points_price = 0\n", r"line 16: sku\[0\].points_price: a redemption needs"),
        ("points_price = 300\n", "points_price = -1\n", r"sku\[0\].points_price"),
        ("points_price = 300\n", "points_price = 1.5\n", r"sku\[0\].points_price"),
        ("points_price = 300\n", f"points_price = {2**63}\n", r"sku\[0\].points_price"),
        ("points_price = 300\n", "points_price = 1_000_000_001\n", r"sku\[0\].points_price"),
    ],
)
def test_bad_prices_in_points(old: str, new: str, why: str) -> None:
    """A file whose SKU has no price in points, or none that an account could pay, is refused by line and field."""
    text = redemption_text("c-1")
    assert old in text
    with pytest.raises(ConfigError, match=why):
        parse_campaign(text.replace(old, new), source="test")


def test_the_example_is_a_redemption() -> None:
    """The example file is one that can be loaded."""
    text = (PROJECT_ROOT / "examples" / "redemption.toml").read_text(encoding="utf-8")
    assert parse_campaign(text, source="redemption.toml").campaign.kind == REDEMPTION


def test_the_dearest_order_fits_an_account() -> None:
    """The most units at the highest price that a file may have cost no more than an account can hold."""
    dearest = max(price for price in (10**9, 10**9 + 1) if _is_price(price))
    assert dearest == 10**9
    assert dearest * QUANTITY_MAX <= BALANCE_MAX


def _is_price(price: int) -> bool:
    try:
        redemption_file("c-1", price=price)
    except ConfigError:
        return False
    return True


def test_one_price_by_kind() -> None:
    """What Redis has as a price is points in a redemption, and cents in any other campaign, whatever the file has."""
    redemption = redemption_file("c-1")
    sku: Sku = redemption.sku[0]
    sale = msgspec.structs.replace(redemption, campaign=msgspec.structs.replace(redemption.campaign, kind=SALE))
    assert (redemption.price_of(sku), sale.price_of(sku)) == (PRICE, 5_900)


def test_recovery_brings_prices_in_points() -> None:
    """A SKU that Redis has lost, or knows from an older file, gets the price that a load would write."""
    campaign = redemption_file("c-1")
    catalog = CatalogCampaign(2, campaign, False, campaign, False, {SKU: CatalogSku(10, 0, 0)}, [])
    fields = {"load_no": "1", "state": "open"}
    lost = CampaignStock(fields, {}, {}, {}, frozenset())
    assert [one.price_cents for one in make_room(catalog, lost, [SKU]).skus] == [PRICE]
    old = lost._replace(lines={SKU: StockLine(10, 0, 0, 10, 1, 1, 1)}, in_file={SKU: 10})
    assert [one.price_cents for one in bring_to_catalog(catalog, old).changes.skus] == [PRICE]


def entry(price: int) -> Entry:
    """Return an entry as the script writes it."""
    orders = [["0" * 32, "f" * 16, SKU, 2, "ann", price, 1]]
    return Entry("c-1", "7-0", {b"t": b"7", b"p": b"0-0", b"orders": msgspec.msgpack.encode(orders)})


def test_records_go_to_the_topic_of_the_kind() -> None:
    """The same entry is an order in a sale and a redemption in a redemption campaign; their dead letters go apart."""
    (sold,), (redeemed,) = order_records(entry(PRICE), SALE), order_records(entry(PRICE), REDEMPTION)
    assert (sold.topic, redeemed.topic) == ("orders.accepted", "redemptions.accepted")
    assert sold.key == redeemed.key == b"c-1~" + b"0" * 32
    event = decode_redemption_accepted(redeemed.value)
    assert (event.points, event.points_in_all, event.order().unit_price_cents) == (PRICE, 2 * PRICE, 0)
    dead = [dead_record(entry(0), kind, CORRUPT).topic for kind in (SALE, REDEMPTION)]
    assert dead == ["orders.accepted.dead", "redemptions.accepted.dead"]


@pytest.mark.parametrize("price", [0, BALANCE_MAX + 1])
def test_what_costs_no_points_is_no_redemption(price: int) -> None:
    """An entry without a price in points is none of a redemption campaign."""
    with pytest.raises(PoisonRecordError):
        order_records(entry(price), REDEMPTION)
