"""Guards of the steps of sagas in this schema."""

from alembic import op

revision = "points_0002"
down_revision = "points_0001"

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back a CREATE TABLE: IF NOT EXISTS lets an interrupted run be repeated.
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


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
