"""Campaigns, SKUs and what is allocated to them."""

from alembic import op

revision = "catalog_0001"
down_revision = None

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back a CREATE TABLE: IF NOT EXISTS lets an interrupted run be repeated.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS campaign (
            campaign_id VARCHAR(40) NOT NULL,
            kind VARCHAR(16) NOT NULL,
            opens_ms BIGINT NOT NULL,
            closes_ms BIGINT NOT NULL,
            definition MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
            PRIMARY KEY (campaign_id)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS sku (
            sku_id VARCHAR(64) NOT NULL,
            PRIMARY KEY (sku_id)
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS allocation (
            campaign_id VARCHAR(40) NOT NULL,
            sku_id VARCHAR(64) NOT NULL,
            quantity BIGINT NOT NULL,
            version BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (campaign_id, sku_id),
            CONSTRAINT allocation_campaign FOREIGN KEY (campaign_id) REFERENCES campaign (campaign_id),
            CONSTRAINT allocation_sku FOREIGN KEY (sku_id) REFERENCES sku (sku_id)
        ) {_TABLE}
    """)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
