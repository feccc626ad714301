"""What recovery brings a campaign's stock to, decided without I/O."""

import msgspec

from adapters.catalog import CatalogCampaign, CatalogSku, CatalogTopUp
from adapters.recovery_stock import Adjustment, CampaignStock, Changes
from adapters.stock import StockLine
from domain.campaign import Campaign
from gateway.recovery_allocations import Brought, bring_to_catalog, lost_top_ups, make_room
from tests.support.events import sample_campaign

BOX, BAG = "box-1", "box-2"


def file(box: int, bag: int | None = None, price_cents: int = 5_900) -> Campaign:
    """Return a file of one SKU or two."""
    made = sample_campaign("c-1", [BOX] if bag is None else [BOX, BAG])
    stock = {BOX: box, BAG: bag or 0}
    skus = tuple(msgspec.structs.replace(sku, stock=stock[sku.id], price_cents=price_cents) for sku in made.sku)
    return msgspec.structs.replace(made, sku=skus)


def line(allocated: int, sold: int = 0, price_cents: int = 5_900) -> StockLine:
    """Return a SKU's numbers in Redis; one unit was given back."""
    return StockLine(allocated - sold, sold + 1, 1, allocated, 1, 1, price_cents)


def here(*lines: StockLine, load_no: int = 1, **more: object) -> CampaignStock:
    """Return what Redis has; of the file it has what is allocated."""
    by_sku = dict(zip((BOX, BAG), lines, strict=False))
    in_file = {sku_id: one.allocated for sku_id, one in by_sku.items()}
    made = CampaignStock({"load_no": str(load_no), "state": "open"}, by_sku, in_file, {}, frozenset())
    return made._replace(**more)  # type: ignore[arg-type]


def catalog(definition: Campaign, *skus: CatalogSku, load_no: int = 1, **more: object) -> CatalogCampaign:
    """Return what the catalog has; nothing is due."""
    by_sku = dict(zip((BOX, BAG), skus, strict=False))
    made = CatalogCampaign(load_no, definition, False, definition, False, by_sku, [])
    return made._replace(**more)  # type: ignore[arg-type]


def brought(one: Brought) -> dict[str, tuple[int, int, int]]:
    """Return SKU → allocated, in the file, withdrawn, of what is changed."""
    return {sku.sku_id: sku[2:5] for sku in one.changes.skus}


NOTHING = Changes(1, [], {}, {})


def test_what_is_as_the_catalog_has_it_stays() -> None:
    """Nothing is changed, whatever is sold."""
    both = catalog(file(10), CatalogSku(10, 0, 0)), here(line(10, 10))
    assert make_room(*both, {BOX})._replace(top_ups={}) == NOTHING
    assert bring_to_catalog(*both) == Brought(NOTHING, {})


def test_room_is_made_for_all_that_may_have_been_sold() -> None:
    """Stock is raised, never lowered; a SKU that is missing is made if Redis had it, or an order needs it."""
    had = catalog(file(5, 7), CatalogSku(5, 0, 0), CatalogSku(7, 2, 0))
    (made,) = make_room(had, here(line(10)), ()).skus
    assert made == Adjustment(BAG, None, 9, 0, 0, 1, 5_900)
    under_way = had._replace(load_is_due=True, accepted=file(10))
    assert make_room(under_way, here(line(10)), {BOX}).skus == []
    assert [one.sku_id for one in make_room(under_way, here(line(10)), {BAG}).skus] == [BAG]
    raised = catalog(file(10), CatalogSku(10, 5, 0), is_closed=True)
    assert make_room(raised, here(line(10)), ()) == Changes(
        1, [Adjustment(BOX, line(10), 15, 10, 0, 1, 5_900)], {"state": "closed"}
    )


def test_stock_falls_to_what_is_allocated() -> None:
    """As far as it is not sold; the rest is oversold, and counts as the file's."""
    lower = catalog(file(2), CatalogSku(2, 3, 0))
    for sold, (allocated, in_file, oversold) in {0: (5, 2, 0), 5: (5, 2, 0), 7: (7, 4, 2)}.items():
        found = bring_to_catalog(lower, here(line(10, sold)))
        assert brought(found) == {BOX: (allocated, in_file, 0)}
        assert found.oversold == ({BOX: oversold} if oversold else {})


def test_the_greater_total_of_what_was_withdrawn_counts() -> None:
    """Redis may know of more, which the catalog has not freed yet, or have forgotten some."""
    for known, forgotten in ((6, 2), (2, 6)):
        closed = catalog(file(10), CatalogSku(10, 0, known), is_closed=True)
        found = bring_to_catalog(closed, here(line(10, 4), withdrawn={BOX: forgotten}))
        assert brought(found) == {BOX: (4, 10, 6)}
        assert found.changes.fields == {"state": "closed"}


def test_top_ups() -> None:
    """A done one gets its key back; a due one is left alone, unless Redis has it, or what is sold shows it."""
    done, due = CatalogTopUp("k", BOX, 5, False), CatalogTopUp("l", BOX, 3, True)
    both = catalog(file(10), CatalogSku(10, 8, 0), top_ups=[due, done])
    for stock, allocated, keys in (
        (here(line(10)), 15, {"k": "box-1 5"}),
        (here(line(10), top_ups=frozenset("l")), 18, {"k": "box-1 5"}),
        (here(line(18, 16), top_ups=frozenset("k")), 18, {"l": "box-1 3"}),
    ):
        found = bring_to_catalog(both, stock)
        assert brought(found) == {BOX: (allocated, 10, 0)}
        assert found.changes.top_ups == keys


def test_a_load_under_way() -> None:
    """It is left to come; if Redis has it, by number or by what is sold, it counts, and what fell falls."""
    skus = CatalogSku(15, 0, 0), CatalogSku(10, 0, 0)
    due = catalog(file(15, 4, 100), *skus, load_no=2, load_is_due=True, accepted=file(10, 10))
    assert bring_to_catalog(due, here(line(10), line(10))) == Brought(NOTHING, {})
    left = bring_to_catalog(due, here(line(15), line(9)))
    assert brought(left) == {BOX: (10, 10, 0), BAG: (10, 10, 0)}
    for stock in (here(line(10), line(10), load_no=2), here(line(15, 11), line(10))):
        assert brought(bring_to_catalog(due, stock)) == {BOX: (15, 15, 0), BAG: (4, 4, 0)}
    sold = bring_to_catalog(due, here(line(15, 11), line(10))).changes
    assert sold.fields["load_no"] == "2"
    assert "refused_load_no" not in sold.fields
    assert {one.price_cents for one in sold.skus} == {100}


def test_a_first_load_under_way_decides_itself() -> None:
    """Of a campaign that Redis had before the catalog nothing is changed, but that it may be closed."""
    due = catalog(file(5), CatalogSku(5, 0, 0), load_is_due=True, accepted=None, is_closed=True)
    found = bring_to_catalog(due, here(line(10), load_no=0))
    assert found == Brought(Changes(0, (), {"state": "closed"}), {})


def test_a_file_that_redis_has_lost() -> None:
    """Its fields and prices come back with its number; no load up to it may change anything any more."""
    later = catalog(file(10, price_cents=100), CatalogSku(10, 0, 0), load_no=3)
    changes = bring_to_catalog(later, here(line(10))).changes
    assert [one.price_cents for one in changes.skus] == [100]
    assert changes.fields["pay_within_s"] == "900"
    assert (changes.fields["load_no"], changes.fields["refused_load_no"]) == ("3", "3")
    newer = bring_to_catalog(later, here(line(10), load_no=3))
    assert newer == Brought(Changes(3, [], {}, {}), {})


OLD, MIDDLE, NEW = (CatalogTopUp(key, BOX, units, False) for key, units in (("old", 3), ("middle", 4), ("new", 4)))


def drawn_from(allocated: int, *known: str, **fields: str) -> CampaignStock:
    """Return an opened lottery as its log says it is; it knows these top-ups."""
    made = here(line(allocated), top_ups=frozenset(known))
    return made._replace(fields={**made.fields, "log_seq": "9", **fields})


def test_lost_top_ups_of_a_lottery_are_made_again() -> None:
    """The newest first, as many as units are missing: one from before the opening may be there without its key.

    One whose line the log has is known by its key. Nothing is made again where nothing is missing, in a sale, or in a
    lottery that is closed or has not begun its log.
    """
    both = catalog(file(10), CatalogSku(10, 11, 0), top_ups=[OLD, MIDDLE, NEW])
    for allocated, known, lost in (
        (21, (), []),
        (17, (), [NEW]),
        (13, (), [NEW, MIDDLE]),
        (17, ("new",), [MIDDLE]),
        (17, ("middle", "old"), [NEW]),
        (10, (), [NEW, MIDDLE, OLD]),
        (25, (), []),
    ):
        assert lost_top_ups(both, drawn_from(allocated, *known)) == (lost, [])
    for nothing in (here(line(10)), drawn_from(10, state="closed"), drawn_from(10)._replace(lines={})):
        assert lost_top_ups(both, nothing) == ([], [])
    assert lost_top_ups(both._replace(is_closed=True), drawn_from(10)) == ([], [])


def test_a_top_up_under_way_in_a_lottery() -> None:
    """It is left to come; if the log opened with its units it has come; if its line is there it hides no lost one."""
    due = MIDDLE._replace(is_due=True)
    both = catalog(file(10), CatalogSku(10, 11, 0), top_ups=[OLD, due, NEW])
    for allocated, known, lost, had in (
        (17, ("old", "new"), [], []),
        (13, ("old",), [NEW], []),
        (17, ("old", "middle"), [NEW], []),
        (21, ("old", "new"), [], [due]),
        (21, (), [], [due]),
    ):
        assert lost_top_ups(both, drawn_from(allocated, *known)) == (lost, had)


def test_a_load_under_way_is_no_lost_top_up() -> None:
    """What an opened lottery's file is to be raised by is allocated, and will be refused; it is not missing."""
    raised = catalog(file(15), CatalogSku(15, 4, 0), load_no=2, load_is_due=True, accepted=file(10), top_ups=[MIDDLE])
    assert lost_top_ups(raised, drawn_from(14)) == ([], [])
    assert lost_top_ups(raised, drawn_from(10)) == ([MIDDLE], [])
