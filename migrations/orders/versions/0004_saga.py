"""Sagas of redemptions, the guards of their steps in this schema, and payments in points."""

from alembic import op

from migrations.columns import add_column

revision = "orders_0004"
down_revision = "orders_0003"

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back a CREATE TABLE: IF NOT EXISTS lets an interrupted run be repeated.
    # next_at_ms: when it is to be taken up again; NULL: never by itself, for it has ended or was parked.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS saga (
            saga_id VARCHAR(73) NOT NULL,
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            user_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
            quantity INT NOT NULL,
            points BIGINT NOT NULL,
            fingerprint CHAR(16) NOT NULL,
            hold_no INT NOT NULL,
            accepted_at_ms BIGINT NOT NULL,
            outbox_id VARCHAR(41) NOT NULL,
            outbox_index INT NOT NULL,
            nonce BINARY(16) NOT NULL,
            status VARCHAR(16) NOT NULL,
            step VARCHAR(24) NOT NULL DEFAULT '',
            version INT NOT NULL DEFAULT 1,
            reason VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
            attempts INT NOT NULL DEFAULT 0,
            error VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
            next_at_ms BIGINT NULL,
            parked_at_ms BIGINT NULL,
            started_at_ms BIGINT NOT NULL,
            ended_at_ms BIGINT NULL,
            PRIMARY KEY (saga_id),
            KEY by_due (next_at_ms),
            KEY by_parked (parked_at_ms),
            KEY by_campaign (campaign_id, ended_at_ms)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS saga_step (
            saga_id VARCHAR(73) NOT NULL,
            step VARCHAR(24) NOT NULL,
            outcome VARCHAR(24) NOT NULL,
            nonce BINARY(16) NOT NULL,
            at_ms BIGINT NOT NULL,
            PRIMARY KEY (saga_id, step)
        ) {_TABLE}
    """)
    add_column("payment", "points", "BIGINT NOT NULL DEFAULT 0")


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
