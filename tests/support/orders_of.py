"""Orders as the gateway hands them to the admission script."""

from adapters.stock import OrderRequest
from domain.order import fingerprint, order_id, user_hash
from tests.support.shop import SKU, Shop


def request_of(shop: Shop, user: str, key: str = "key-1") -> OrderRequest:
    """Return the order of one unit by a user with a key."""
    digest = order_id(shop.id, user, key)[-32:]
    return OrderRequest(digest, fingerprint(SKU, 1), SKU, 1, user, user_hash(user))
