"""What happens to an order after the sale: payment, expiry, release, and what is owed to Redis and Kafka for it."""

from alembic import op

from migrations.columns import add_column

revision = "orders_0002"
down_revision = "orders_0001"

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back DDL: every step may be repeated.
    add_column("campaign_sku", "pay_within_s", "INT NOT NULL DEFAULT 900")
    add_column("orders", "pay_by_ms", "BIGINT NULL", "ADD KEY by_due (status, pay_by_ms)")
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS order_change (
            id BIGINT NOT NULL AUTO_INCREMENT,
            order_id VARCHAR(73) NOT NULL,
            version INT NOT NULL,
            status VARCHAR(16) NOT NULL,
            reason VARCHAR(64) NOT NULL,
            at_ms BIGINT NOT NULL,
            published TINYINT NOT NULL DEFAULT 0,
            PRIMARY KEY (id),
            UNIQUE KEY change_of (order_id, version),
            KEY unpublished (published, id)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS stock_return (
            order_id VARCHAR(73) NOT NULL,
            hold_no INT NOT NULL,
            origin VARCHAR(48) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            user_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
            quantity INT NOT NULL,
            created_at_ms BIGINT NOT NULL,
            next_at_ms BIGINT NOT NULL,
            attempts INT NOT NULL DEFAULT 0,
            error VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
            done_at_ms BIGINT NULL,
            PRIMARY KEY (order_id, hold_no, origin),
            KEY by_due (done_at_ms, next_at_ms),
            KEY by_campaign (campaign_id, done_at_ms)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS payment (
            payment_id VARCHAR(40) NOT NULL,
            order_id VARCHAR(73) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL,
            attempt_no INT NOT NULL,
            amount_cents BIGINT NOT NULL,
            status VARCHAR(16) NOT NULL,
            pay_url VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
            hold_no INT NOT NULL DEFAULT 0,
            created_at_ms BIGINT NOT NULL,
            updated_at_ms BIGINT NOT NULL,
            next_at_ms BIGINT NOT NULL,
            attempts INT NOT NULL DEFAULT 0,
            error VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
            PRIMARY KEY (payment_id),
            UNIQUE KEY payment_of (order_id, attempt_no),
            KEY by_due (status, next_at_ms),
            KEY by_campaign (campaign_id, status)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS dead_letter_done (
            topic VARCHAR(100) NOT NULL,
            kafka_partition INT NOT NULL,
            kafka_offset BIGINT NOT NULL,
            action VARCHAR(16) NOT NULL,
            at_ms BIGINT NOT NULL,
            PRIMARY KEY (topic, kafka_partition, kafka_offset)
        ) {_TABLE}
    """)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
