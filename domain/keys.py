"""Every Redis key and channel is made here.

Keys of one campaign share the hash tag `{campaign:shard}`, so that one script sees all that a decision needs and
Redis Cluster keeps them in one slot. Today every campaign has one shard, number 0 (see docs/decisions.md).
"""

import hashlib
from typing import Final

SHARD: Final = 0
GUARD_HASH_BYTES: Final = 20

CAMPAIGNS: Final = "fg:campaigns"
"""Set of the ids of all loaded campaigns."""

CHANGES: Final = "fg:changes"
"""Pub/sub channel; a message is the id of a campaign whose state or stock has changed for the better or worse."""

WATERMARKS: Final = "fg:watermarks"
"""Pub/sub channel; a message is `<campaign id> <outbox id> <run id>`: this Redis's entries up to it are in Kafka."""


def _slot(campaign_id: str) -> str:
    return f"fg:{{{campaign_id}:{SHARD}}}"


def campaign(campaign_id: str) -> str:
    """Hash: state, window, limits, the campaign's bucket, the fence's run id."""
    return f"{_slot(campaign_id)}:campaign"


def stock(campaign_id: str) -> str:
    """Hash: SKU id → remaining, taken, returned, allocated, epoch, per_user, price_cents, packed into 52 bytes."""
    return f"{_slot(campaign_id)}:stock"


def outbox(campaign_id: str) -> str:
    """Stream: accepted orders not yet relayed, one entry per batch."""
    return f"{_slot(campaign_id)}:outbox"


def relay(campaign_id: str) -> str:
    """Hash: owner nonce and checkpoint (the last outbox id known to be in Kafka)."""
    return f"{_slot(campaign_id)}:relay"


def loaded(campaign_id: str) -> str:
    """Hash: SKU id → stock as the campaign file had it when it was last loaded."""
    return f"{_slot(campaign_id)}:loaded"


def topups(campaign_id: str) -> str:
    """Hash: key of a top-up → SKU and units, so that a repeated top-up adds nothing."""
    return f"{_slot(campaign_id)}:topups"


def withdrawn(campaign_id: str) -> str:
    """Hash: SKU id → units that the campaign has given back to the warehouse since it was closed, all in all."""
    return f"{_slot(campaign_id)}:withdrawn"


def duplicates(campaign_id: str) -> str:
    """Hash: `<order, 32 hex> <origin>` → units given back, of deductions that were made a second time."""
    return f"{_slot(campaign_id)}:duplicates"


def log_hashes(campaign_id: str) -> str:
    """Hash: number of the first line → hash, of the entries of a lottery's log in which something was drawn."""
    return f"{_slot(campaign_id)}:log"


def holders(campaign_id: str) -> str:
    """String: 8 bytes appended for each order accepted, see `domain.order.user_hash`."""
    return f"{_slot(campaign_id)}:holders"


def buyer(campaign_id: str, user_id: str) -> str:
    """String: the buyer's packed record, see scripts/lua/admit_orders.lua."""
    return f"{_slot(campaign_id)}:buyer:{user_id}"


def buyer_pattern(campaign_id: str) -> str:
    """Return the SCAN pattern of a campaign's buyer records (campaign ids have no glob characters)."""
    return f"{_slot(campaign_id)}:buyer:*"


def guard(fact: str) -> str:
    """String: the token of whoever inserts this fact at the moment, see adapters/insert_once.py.

    The fact is hashed: however long it is and whatever stands in it, its key is short and no other fact's.
    """
    return f"fg:guard:{hashlib.blake2b(fact.encode(), digest_size=GUARD_HASH_BYTES).hexdigest()}"
