"""Orders, the stock ledger and its counters.

Everything that is compared is ASCII or compared byte by byte, so that two ids are the same only if they are.
"""

from alembic import op

revision = "orders_0001"
down_revision = None

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back a CREATE TABLE: IF NOT EXISTS lets an interrupted run be repeated.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS campaign_sku (
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            allocated BIGINT NOT NULL,
            sold BIGINT NOT NULL DEFAULT 0,
            version BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (campaign_id, sku_id)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS orders (
            order_id VARCHAR(73) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            user_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
            quantity INT NOT NULL,
            unit_price_cents BIGINT NOT NULL,
            fingerprint CHAR(16) NOT NULL,
            status VARCHAR(16) NOT NULL,
            version INT NOT NULL,
            hold_no INT NOT NULL,
            outbox_id VARCHAR(41) NOT NULL,
            outbox_index INT NOT NULL,
            nonce BINARY(16) NOT NULL,
            accepted_at_ms BIGINT NOT NULL,
            confirmed_at_ms BIGINT NOT NULL,
            PRIMARY KEY (order_id),
            KEY by_sku (campaign_id, sku_id, status),
            KEY by_user (campaign_id, user_id)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS stock_ledger (
            id BIGINT NOT NULL AUTO_INCREMENT,
            order_id VARCHAR(73) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            hold_no INT NOT NULL,
            kind VARCHAR(16) NOT NULL,
            quantity INT NOT NULL,
            outbox_id VARCHAR(41) NOT NULL,
            outbox_index INT NOT NULL,
            nonce BINARY(16) NOT NULL,
            created_at_ms BIGINT NOT NULL,
            PRIMARY KEY (id),
            UNIQUE KEY deduction (order_id, sku_id, hold_no, kind),
            KEY by_sku (campaign_id, sku_id),
            CONSTRAINT ledger_counter FOREIGN KEY (campaign_id, sku_id) REFERENCES campaign_sku (campaign_id, sku_id)
        ) {_TABLE}
    """)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
