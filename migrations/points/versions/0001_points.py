"""Accounts, and the ledger that says what each balance is made of.

User ids are compared byte by byte; they have no blanks at their ends, which this collation would pass over.
"""

from alembic import op

from domain.points import BALANCE_MAX

revision = "points_0001"
down_revision = None

_TABLE = "ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin"
_USER = "VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"


def upgrade() -> None:
    # MySQL and MariaDB cannot roll back a CREATE TABLE: IF NOT EXISTS lets an interrupted run be repeated.
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS account (
            user_id {_USER},
            balance BIGINT NOT NULL DEFAULT 0,
            version BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (user_id),
            CONSTRAINT balance_bounded CHECK (balance >= 0 AND balance <= {BALANCE_MAX})
        ) {_TABLE}
    """)
    op.execute(f"""
        CREATE TABLE IF NOT EXISTS points_ledger (
            id BIGINT NOT NULL AUTO_INCREMENT,
            user_id {_USER},
            ref_id VARCHAR(73) NOT NULL,
            kind VARCHAR(16) NOT NULL,
            delta BIGINT NOT NULL,
            at_ms BIGINT NOT NULL,
            nonce BINARY(16) NOT NULL,
            note VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
            PRIMARY KEY (id),
            UNIQUE KEY movement (ref_id, kind),
            KEY by_user (user_id)
        ) {_TABLE}
    """)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
