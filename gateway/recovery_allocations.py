"""What recovery brings a campaign's stock to, decided without I/O.

Redis may have gone back to a state from before a load, a top-up or a close, which the catalog remembers. Before the
orders that Redis has lost are restored there has to be room for them (`make_room`); then every SKU gets exactly what
the catalog has allocated (`bring_to_catalog`). What is still under way to Redis is left to whoever carries it out,
unless what is sold shows that Redis had it already.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from adapters.campaign_stock import campaign_fields
from adapters.catalog import CatalogCampaign, CatalogTopUp
from adapters.draws import drawn_from
from adapters.recovery_stock import Adjustment, CampaignStock, Changes
from adapters.stock import StockLine
from domain.campaign import LOTTERY, Campaign, CampaignState, Sku


class Brought(NamedTuple):
    """What a campaign is brought to, and what cannot be mended."""

    changes: Changes
    oversold: dict[str, int]
    """SKU id → units sold that the catalog has not allocated."""


def make_room(catalog: CatalogCampaign, here: CampaignStock, needed: Collection[str]) -> Changes:
    """Raise every SKU to the most that may have been sold of it, and close the campaign if the catalog has closed it.

    Args:
        catalog: the campaign there.
        here: what Redis has.
        needed: SKUs of the orders that are to be restored.
    """
    skus, wanted = _skus(catalog.definition), set(needed)
    if catalog.accepted is not None:
        wanted |= _skus(catalog.accepted).keys()
    found = []
    for sku_id, one in sorted(catalog.skus.items()):
        line, sku = here.lines.get(sku_id), skus.get(sku_id)
        if line is None and sku is not None and sku_id in wanted:
            price = catalog.definition.price_of(sku)
            found.append(Adjustment(sku_id, None, one.quantity, 0, 0, sku.per_user, price))
        elif line is not None and one.quantity > line.allocated:
            in_file, withdrawn = here.in_file.get(sku_id, 0), here.withdrawn.get(sku_id, 0)
            found.append(Adjustment(sku_id, line, one.quantity, in_file, withdrawn, line.per_user, line.price_cents))
    return Changes(here.load_no, found, _state(catalog, here))


def bring_to_catalog(catalog: CatalogCampaign, here: CampaignStock) -> Brought:
    """Say what each SKU is brought to, once all orders are restored.

    What is sold stays sold: a SKU of which more is sold than allocated gets what is sold.

    Args:
        catalog: the campaign there.
        here: what Redis has.
    """
    has_load = _has_load(catalog, here)
    campaign, load_no = (catalog.definition, catalog.load_no) if has_load else (catalog.accepted, catalog.load_no - 1)
    if is_opened_lottery(here):  # its log says what was loaded, and what came and went
        return Brought(Changes(here.load_no, (), _state(catalog, here)), {})
    if campaign is None:  # its first load is under way, and Redis had it from somebody else: that load decides
        return Brought(Changes(here.load_no, (), _state(catalog, here)), {})
    is_behind = here.load_no < load_no
    skus, files = _skus(campaign), _files(catalog, has_load=has_load)
    top_ups = {one.key: one for one in catalog.top_ups if not one.is_due and one.key not in here.top_ups}
    found, oversold = [], {}
    for sku_id, one in sorted(catalog.skus.items()):
        line, sku = here.lines.get(sku_id), skus.get(sku_id)
        if line is None:
            continue
        withdrawn, sold = max(one.withdrawn, here.withdrawn.get(sku_id, 0)), sold_of(line)
        under_way = [up for up in catalog.top_ups if up.is_due and up.sku_id == sku_id and up.key not in here.top_ups]
        wanted = files[sku_id] + one.topped_up - withdrawn - sum(up.units for up in under_way)
        for up in under_way:
            if sold > wanted:
                wanted += up.units
                top_ups[up.key] = up
        if sold > wanted:
            oversold[sku_id] = sold - wanted
        per_user, price = (sku.per_user, campaign.price_of(sku)) if is_behind and sku is not None else line[-2:]
        # What is oversold counts as the file's, so that a file that asks for it is allocated it, and nothing on top.
        in_file = files[sku_id] + oversold.get(sku_id, 0)
        after = Adjustment(sku_id, line, max(sold, wanted), in_file, withdrawn, per_user, price)
        stood = (line.allocated, here.in_file.get(sku_id, 0), here.withdrawn.get(sku_id, 0), *line[-2:])
        if after[2:] != stood:
            found.append(after)
    fields = _state(catalog, here)
    if is_behind:
        fields |= _fields(catalog, here, campaign, load_no)
    told = {one.key: f"{one.sku_id} {one.units}" for one in top_ups.values()}
    return Brought(Changes(here.load_no, found, fields, told), oversold)


def is_opened_lottery(here: CampaignStock) -> bool:
    """Tell whether a campaign is a lottery that has begun its log."""
    return "log_seq" in here.fields


def lost_top_ups(catalog: CatalogCampaign, here: CampaignStock) -> tuple[list[CatalogTopUp], list[CatalogTopUp]]:
    """Return the top-ups of an opened lottery that Redis has lost with their lines of the log, and those that it had.

    Where Redis has lost the opening, too, it knows the keys of later top-ups only. What came before is in what the log
    opens with. So the newest are made again, and only as many as units are missing; and one that is still under way,
    and whose units are there already, is not to come a second time.

    Args:
        catalog: the lottery there.
        here: what Redis has, with all of the log that Kafka has.
    """
    if not is_opened_lottery(here) or catalog.is_closed or here.fields.get("state") == CampaignState.CLOSED:
        return [], []
    files = _files(catalog, has_load=_has_load(catalog, here))
    unknown = [up for up in reversed(catalog.top_ups) if up.key not in here.top_ups]
    missing = {}
    for sku_id, one in catalog.skus.items():
        due = sum(up.units for up in unknown if up.is_due and up.sku_id == sku_id)
        if sku_id in here.lines:
            wanted = files[sku_id] + one.topped_up - one.withdrawn - due
            missing[sku_id] = wanted - here.lines[sku_id].allocated
    lost, had = [], []
    for up in unknown:
        units = missing.get(up.sku_id, 0)
        if not up.is_due and up.units <= units:
            missing[up.sku_id] = units - up.units
            lost.append(up)
        elif up.is_due and up.units <= -units:
            missing[up.sku_id] = units + up.units
            had.append(up)
    return lost, had


def sold_of(line: StockLine) -> int:
    """Return the units of a SKU that are sold."""
    return line.taken - line.returned


def _skus(campaign: Campaign) -> dict[str, Sku]:
    return {sku.id: sku for sku in campaign.sku}


def _state(catalog: CatalogCampaign, here: CampaignStock) -> dict[str, str]:
    # A lottery is closed by a line of its log, which the warehouse has written as soon as the gate is open.
    to = CampaignState.PAUSED if catalog.definition.campaign.kind == LOTTERY else CampaignState.CLOSED
    closes = catalog.is_closed and here.fields.get("state") not in {CampaignState.CLOSED, to}
    return {"state": str(to)} if closes else {}


def _fields(catalog: CatalogCampaign, here: CampaignStock, campaign: Campaign, load_no: int) -> dict[str, str]:
    told = [*campaign_fields(campaign), *(drawn_from(campaign) if campaign.campaign.kind == LOTTERY else ())]
    fields = {name: str(value) for name, value in told} | {"load_no": str(load_no)}
    if not catalog.load_is_due:
        # Whoever still carries one of the loads out, paused since before, must change nothing any more.
        fields["refused_load_no"] = str(load_no)
    return {name: value for name, value in fields.items() if here.fields.get(name) != value}


def _files(catalog: CatalogCampaign, *, has_load: bool) -> dict[str, int]:
    """Return SKU id → units for what the file says, with the load that is under way or without it."""
    if not catalog.load_is_due:
        return {sku_id: one.in_file for sku_id, one in catalog.skus.items()}
    campaign = catalog.definition if has_load else catalog.accepted
    stock: Mapping[str, int] = {} if campaign is None else {sku.id: sku.stock for sku in campaign.sku}
    return {sku_id: min(one.in_file, stock.get(sku_id, 0)) for sku_id, one in catalog.skus.items()}


def _has_load(catalog: CatalogCampaign, here: CampaignStock) -> bool:
    """Tell whether Redis has the catalog's last load, or has had it: then more is sold than the file before allows."""
    if not catalog.load_is_due or here.load_no >= catalog.load_no:
        return True
    if catalog.accepted is None:
        return False
    files = _files(catalog, has_load=False)
    return any(
        sold_of(here.lines[sku_id]) > files[sku_id] + one.topped_up - one.withdrawn
        for sku_id, one in catalog.skus.items()
        if sku_id in here.lines
    )
