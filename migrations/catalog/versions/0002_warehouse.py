"""Products, and the warehouse stock that campaigns and the shop share."""

import json

from alembic import op
from sqlalchemy import text

from migrations.columns import add_column

revision = "catalog_0002"
down_revision = "catalog_0001"

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back DDL: every step may be repeated.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS product (
            product_id VARCHAR(64) NOT NULL,
            name VARCHAR(200) {_TEXT} NOT NULL,
            PRIMARY KEY (product_id)
        ) {_TABLE}
    """)
    add_column("sku", "product_id", "VARCHAR(64) NULL", "ADD KEY by_product (product_id)")
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS sku_attribute (
            sku_id VARCHAR(64) NOT NULL,
            name VARCHAR(64) {_TEXT} NOT NULL,
            value VARCHAR(255) {_TEXT} NOT NULL,
            PRIMARY KEY (sku_id, name),
            CONSTRAINT attribute_sku FOREIGN KEY (sku_id) REFERENCES sku (sku_id)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS warehouse (
            warehouse_id VARCHAR(40) NOT NULL,
            name VARCHAR(200) {_TEXT} NOT NULL,
            PRIMARY KEY (warehouse_id)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS warehouse_stock (
            sku_id VARCHAR(64) NOT NULL,
            warehouse_id VARCHAR(40) NOT NULL,
            on_hand BIGINT NOT NULL DEFAULT 0,
            allocated BIGINT NOT NULL DEFAULT 0,
            reserved BIGINT NOT NULL DEFAULT 0,
            version BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (sku_id, warehouse_id),
            CONSTRAINT stock_sku FOREIGN KEY (sku_id) REFERENCES sku (sku_id),
            CONSTRAINT stock_warehouse FOREIGN KEY (warehouse_id) REFERENCES warehouse (warehouse_id),
            CONSTRAINT stock_is_there CHECK (allocated >= 0 AND reserved >= 0 AND on_hand >= allocated + reserved)
        ) {_TABLE}
    """)
    # What each booking moved the three numbers of a SKU in a warehouse by; their sums are the numbers.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS warehouse_ledger (
            id BIGINT NOT NULL AUTO_INCREMENT,
            ref VARCHAR(128) NOT NULL,
            kind VARCHAR(16) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            warehouse_id VARCHAR(40) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL DEFAULT '',
            on_hand BIGINT NOT NULL,
            allocated BIGINT NOT NULL,
            reserved BIGINT NOT NULL,
            who VARCHAR(64) {_TEXT} NOT NULL DEFAULT '',
            why VARCHAR(255) {_TEXT} NOT NULL DEFAULT '',
            created_at_ms BIGINT NOT NULL,
            PRIMARY KEY (id),
            UNIQUE KEY booking (ref, kind, sku_id, warehouse_id),
            KEY by_sku (sku_id, warehouse_id),
            KEY by_campaign (campaign_id, sku_id),
            CONSTRAINT ledger_stock FOREIGN KEY (sku_id, warehouse_id) REFERENCES warehouse_stock (sku_id, warehouse_id)
        ) {_TABLE}
    """)
    add_column("campaign", "load_no", "BIGINT NOT NULL DEFAULT 0")
    add_column("campaign", "closed_at_ms", "BIGINT NULL")
    # The quantity of an allocation is what its file says and was topped up, less what was withdrawn.
    add_column("allocation", "in_file", "BIGINT NOT NULL DEFAULT 0")
    add_column("allocation", "topped_up", "BIGINT NOT NULL DEFAULT 0")
    add_column("allocation", "withdrawn", "BIGINT NOT NULL DEFAULT 0")
    # Which warehouse a campaign's units lie in; `quantity - shipped` of them are part of its `allocated`.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS warehouse_allocation (
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            warehouse_id VARCHAR(40) NOT NULL,
            quantity BIGINT NOT NULL,
            shipped BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (campaign_id, sku_id, warehouse_id),
            CONSTRAINT part_allocation FOREIGN KEY (campaign_id, sku_id)
                REFERENCES allocation (campaign_id, sku_id),
            CONSTRAINT part_stock FOREIGN KEY (sku_id, warehouse_id) REFERENCES warehouse_stock (sku_id, warehouse_id),
            CONSTRAINT part_is_there CHECK (shipped >= 0 AND quantity >= shipped)
        ) {_TABLE}
    """)
    # What Redis and fg_orders are owed: a load or a top-up that the warehouse has allocated units for.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS allocation_due (
            campaign_id VARCHAR(40) NOT NULL,
            ref VARCHAR(128) NOT NULL,
            kind VARCHAR(16) NOT NULL,
            sku_id VARCHAR(64) NOT NULL DEFAULT '',
            units BIGINT NOT NULL DEFAULT 0,
            load_no BIGINT NOT NULL DEFAULT 0,
            previous MEDIUMTEXT {_TEXT} NULL,
            created_at_ms BIGINT NOT NULL,
            next_at_ms BIGINT NOT NULL,
            attempts INT NOT NULL DEFAULT 0,
            error VARCHAR(255) {_TEXT} NOT NULL DEFAULT '',
            done_at_ms BIGINT NULL,
            PRIMARY KEY (campaign_id, ref),
            KEY by_due (done_at_ms, next_at_ms)
        ) {_TABLE}
    """)
    _opening_balance()


def _opening_balance() -> None:
    """Give campaigns that were loaded before there was a warehouse what they have been allocated, in `main`."""
    op.execute(
        "INSERT INTO warehouse (warehouse_id, name) VALUES ('main', 'Main warehouse') "
        "ON DUPLICATE KEY UPDATE name = name"
    )
    _split_quantities()
    op.execute("""
        INSERT INTO warehouse_stock (sku_id, warehouse_id, on_hand, allocated)
        SELECT sku_id, 'main', SUM(quantity), SUM(quantity) FROM allocation
        WHERE sku_id NOT IN (SELECT sku_id FROM warehouse_stock) GROUP BY sku_id
    """)
    op.execute("""
        INSERT INTO warehouse_allocation (campaign_id, sku_id, warehouse_id, quantity)
        SELECT campaign_id, sku_id, 'main', quantity FROM allocation
        ON DUPLICATE KEY UPDATE warehouse_id = VALUES(warehouse_id)
    """)
    op.execute("""
        INSERT INTO warehouse_ledger
        (ref, kind, sku_id, warehouse_id, on_hand, allocated, reserved, who, why, created_at_ms)
        SELECT 'opening', 'receive', sku_id, 'main', SUM(quantity), 0, 0, 'migration', 'opening balance', 0
        FROM allocation WHERE quantity > 0 GROUP BY sku_id
        ON DUPLICATE KEY UPDATE ref = VALUES(ref)
    """)
    op.execute("""
        INSERT INTO warehouse_ledger
        (ref, kind, sku_id, warehouse_id, campaign_id, on_hand, allocated, reserved, who, why, created_at_ms)
        SELECT CONCAT('opening ', campaign_id), 'allocate', sku_id, 'main', campaign_id, 0, quantity, 0, 'migration',
        'opening balance', 0
        FROM allocation WHERE quantity > 0
        ON DUPLICATE KEY UPDATE ref = VALUES(ref)
    """)


def _split_quantities() -> None:
    """Say how much of each allocation its campaign's file asked for; the rest was topped up."""
    here = op.get_bind()
    split = text(
        "UPDATE allocation SET in_file = LEAST(quantity, :stock), topped_up = quantity - LEAST(quantity, :stock) "
        "WHERE campaign_id = :campaign AND sku_id = :sku AND in_file = 0 AND topped_up = 0 AND withdrawn = 0"
    )
    for campaign_id, definition in here.execute(text("SELECT campaign_id, definition FROM campaign")).all():
        for sku in json.loads(definition)["sku"]:
            here.execute(split, {"campaign": campaign_id, "sku": sku["id"], "stock": sku["stock"]})
    op.execute("UPDATE allocation SET in_file = quantity WHERE in_file = 0 AND topped_up = 0 AND withdrawn = 0")


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
