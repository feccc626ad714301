"""What campaigns are allocated: the catalog decides (fg_catalog), and the counters of the orders follow (fg_orders).

The two schemas may lie on two servers, so no transaction spans them. An allocation's version rises with every move and
every load; a counter takes over what bears a higher version than it has seen, so the same may be brought again, late,
and by several at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from adapters.mysql import Pool, insert_many, query, transaction
from domain.campaign import Campaign
from domain.errors import OperationRefusedError, PoisonRecordError

_ALLOCATIONS: Final = "SELECT sku_id, quantity, version FROM allocation WHERE campaign_id = %s ORDER BY sku_id"
_DEFINITION: Final = "SELECT definition FROM campaign WHERE campaign_id = %s"

# Assignments are made from left to right: the version, which decides, comes last.
_COUNTERS: Final = """
INSERT INTO campaign_sku (campaign_id, sku_id, allocated, pay_within_s, allocation_version)
VALUES (%s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE
 allocated = IF(allocation_version < VALUES(allocation_version), VALUES(allocated), allocated),
 pay_within_s = IF(allocation_version < VALUES(allocation_version), VALUES(pay_within_s), pay_within_s),
 version = IF(allocation_version < VALUES(allocation_version), version + 1, version),
 allocation_version = GREATEST(allocation_version, VALUES(allocation_version))"""
_IS_MOVING: Final = "SELECT COUNT(*) FROM allocation_due WHERE campaign_id = %s AND done_at_ms IS NULL"
_COUNTER: Final = (
    "UPDATE campaign_sku SET allocated = %s, version = version + 1, allocation_version = %s "
    "WHERE campaign_id = %s AND sku_id = %s AND allocation_version <= %s AND allocated <> %s"
)
_CAMPAIGN: Final = "SELECT load_no, definition, closed_at_ms FROM campaign WHERE campaign_id = %s FOR UPDATE"
_SKUS: Final = "SELECT sku_id, in_file, topped_up, withdrawn FROM allocation WHERE campaign_id = %s"
_LOADS_DUE: Final = (
    "SELECT previous FROM allocation_due WHERE campaign_id = %s AND kind = 'load' AND done_at_ms IS NULL"
)
_TOP_UPS: Final = (
    "SELECT ref, sku_id, units, done_at_ms IS NULL FROM allocation_due WHERE campaign_id = %s AND kind = 'topup' "
    "AND (done_at_ms IS NULL OR error = '') ORDER BY created_at_ms, ref"
)


class Allocated(NamedTuple):
    """What the catalog has allocated to a campaign of a SKU."""

    quantity: int
    version: int


class CatalogSku(NamedTuple):
    """What an allocation is made of."""

    in_file: int
    topped_up: int
    withdrawn: int

    @property
    def quantity(self) -> int:
        """Units that the campaign may sell or has sold."""
        return self.in_file + self.topped_up - self.withdrawn


class CatalogTopUp(NamedTuple):
    """A top-up that has been allocated."""

    key: str
    sku_id: str
    units: int
    is_due: bool
    """Redis may not have heard of it."""


class CatalogCampaign(NamedTuple):
    """A campaign, as one transaction of the catalog sees it."""

    load_no: int
    """Number of its last load."""
    definition: Campaign
    load_is_due: bool
    """Redis may not have heard of the last load. What fell in it is still allocated."""
    accepted: Campaign | None
    """The last definition that Redis is known to have had; None: none."""
    is_closed: bool
    skus: Mapping[str, CatalogSku]
    top_ups: Sequence[CatalogTopUp]
    """Those that were refused are not among them."""


def ref_of_top_up(campaign_id: str, key: str) -> str:
    """Return how the catalog calls a top-up, in its ledger and in what is owed."""
    return f"topup {campaign_id} {key}"


def key_of_top_up(campaign_id: str, ref: str) -> str:
    """Return the key of a top-up, from how the catalog calls it."""
    return ref.removeprefix(ref_of_top_up(campaign_id, ""))


async def read_campaign(catalog: Pool, campaign_id: str) -> CatalogCampaign | None:
    """Return all that Redis has to have of a campaign; None if the catalog does not know it.

    Raises:
        BackendError: MySQL could not do it now.
        PoisonRecordError: its definition cannot be read.
    """
    async with transaction(catalog) as cursor:
        # Whoever moves an allocation holds this row.
        await cursor.execute(_CAMPAIGN, (campaign_id,))
        row = await cursor.fetchone()
        if row is None or not row[1]:
            return None
        await cursor.execute(_SKUS, (campaign_id,))
        skus = {sku_id: CatalogSku(*units) for sku_id, *units in await cursor.fetchall()}
        await cursor.execute(_LOADS_DUE, (campaign_id,))
        due = await cursor.fetchone()
        await cursor.execute(_TOP_UPS, (campaign_id,))
        top_ups = [CatalogTopUp(key_of_top_up(campaign_id, ref), *rest) for ref, *rest in await cursor.fetchall()]
    before = row[1] if due is None else due[0]
    return CatalogCampaign(
        load_no=row[0],
        definition=_decode(campaign_id, row[1]),
        load_is_due=due is not None,
        accepted=_decode(campaign_id, before) if before else None,
        is_closed=row[2] is not None,
        skus=skus,
        top_ups=[one._replace(is_due=bool(one.is_due)) for one in top_ups],
    )


def _decode(campaign_id: str, definition: str) -> Campaign:
    try:
        return msgspec.json.decode(definition, type=Campaign)
    except msgspec.MsgspecError as error:
        raise PoisonRecordError(f"campaign {campaign_id!r}: its definition cannot be read: {error}") from error


async def read_allocated(catalog: Pool, campaign_id: str) -> dict[str, Allocated]:
    """Return SKU id → what is allocated; nothing if there is no such campaign.

    Raises:
        BackendError: MySQL could not do it now.
    """
    return {row[0]: Allocated(*row[1:]) for row in await query(catalog, _ALLOCATIONS, (campaign_id,))}


async def bring_counters(catalog: Pool, orders: Pool, campaign_id: str) -> None:
    """Bring a campaign's counters to what the catalog has allocated, and make those that are missing.

    What was sold is never touched. A campaign that the catalog does not know is left alone.

    Raises:
        BackendError: MySQL could not do it now; call again.
    """
    # In this order: the definition is then at least as new as the versions, and never older.
    allocated = await read_allocated(catalog, campaign_id)
    definition = await query(catalog, _DEFINITION, (campaign_id,))
    if not allocated or not definition:
        return
    pay_within_s = msgspec.json.decode(definition[0][0], type=Campaign).campaign.pay_within_s
    rows = [(campaign_id, sku_id, one.quantity, pay_within_s, one.version) for sku_id, one in allocated.items()]
    async with transaction(orders) as cursor:
        await insert_many(cursor, _COUNTERS, rows)


async def mend_counter(catalog: Pool, orders: Pool, campaign_id: str, sku_id: str) -> int:
    """Set a counter that says another figure than the catalog, of the same version, to that; returns the figure.

    Raises:
        BackendError: MySQL could not do it now; call again.
        OperationRefusedError: the catalog knows no such allocation, or it is being moved; nothing was changed.
    """
    one = (await read_allocated(catalog, campaign_id)).get(sku_id)
    if one is None:
        raise OperationRefusedError(f"the catalog has allocated nothing of SKU {sku_id!r} to campaign {campaign_id!r}")
    ((moving,),) = await query(catalog, _IS_MOVING, (campaign_id,))
    if moving:
        raise OperationRefusedError(f"a load, top-up or close of campaign {campaign_id!r} is under way")
    async with transaction(orders) as cursor:
        key = (campaign_id, sku_id)
        await cursor.execute(_COUNTER, (one.quantity, one.version, *key, one.version, one.quantity))
    return one.quantity
