"""The secret seeds of lotteries."""

from alembic import op

revision = "catalog_0003"
down_revision = "catalog_0002"

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back a CREATE TABLE: IF NOT EXISTS lets an interrupted run be repeated.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS lottery_seed (
            campaign_id VARCHAR(40) NOT NULL,
            seed BINARY(32) NOT NULL,
            PRIMARY KEY (campaign_id)
        ) {_TABLE}
    """)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
