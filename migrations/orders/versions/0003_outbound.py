"""The way out of the door: reviews of paid orders, their attributes, and what the warehouse is owed for them."""

from alembic import op

from migrations.columns import add_column

revision = "orders_0003"
down_revision = "orders_0002"

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back DDL: every step may be repeated.
    add_column("campaign_sku", "allocation_version", "BIGINT NOT NULL DEFAULT 0")
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS outbound_review (
            order_id VARCHAR(73) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            quantity INT NOT NULL,
            status VARCHAR(16) NOT NULL,
            version INT NOT NULL,
            who VARCHAR(64) {_TEXT} NOT NULL DEFAULT '',
            why VARCHAR(255) {_TEXT} NOT NULL DEFAULT '',
            opened_at_ms BIGINT NOT NULL,
            decided_at_ms BIGINT NULL,
            PRIMARY KEY (order_id),
            KEY by_status (status, opened_at_ms),
            KEY by_campaign (campaign_id, status, opened_at_ms)
        ) {_TABLE}
    """)
    # A big table: no unique index on purpose, see adapters/insert_once.py.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS order_attribute (
            id BIGINT NOT NULL AUTO_INCREMENT,
            order_id VARCHAR(73) NOT NULL,
            name VARCHAR(64) NOT NULL,
            value VARCHAR(255) {_TEXT} NOT NULL,
            created_at_ms BIGINT NOT NULL,
            PRIMARY KEY (id),
            KEY by_order (order_id, name)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS warehouse_due (
            order_id VARCHAR(73) NOT NULL,
            kind VARCHAR(16) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            quantity INT NOT NULL,
            who VARCHAR(64) {_TEXT} NOT NULL DEFAULT '',
            why VARCHAR(255) {_TEXT} NOT NULL DEFAULT '',
            created_at_ms BIGINT NOT NULL,
            next_at_ms BIGINT NOT NULL,
            attempts INT NOT NULL DEFAULT 0,
            error VARCHAR(255) {_TEXT} NOT NULL DEFAULT '',
            done_at_ms BIGINT NULL,
            PRIMARY KEY (order_id, kind),
            KEY by_due (done_at_ms, next_at_ms),
            KEY by_campaign (campaign_id, done_at_ms)
        ) {_TABLE}
    """)
    # Orders that were paid before there were reviews.
    op.execute("""
        INSERT INTO outbound_review (order_id, campaign_id, sku_id, quantity, status, version, opened_at_ms)
        SELECT order_id, campaign_id, sku_id, quantity, 'waiting', 1, confirmed_at_ms FROM orders
        WHERE status = 'paid' AND order_id NOT IN (SELECT order_id FROM outbound_review)
    """)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
