"""Steps of migrations that may be repeated, for DDL cannot be rolled back and an interrupted run goes again."""

from alembic import op
from sqlalchemy import text


def add_column(table: str, column: str, kind: str, *more: str) -> None:
    """Add a column, with further changes in the same statement, unless it is there.

    MySQL knows no ADD COLUMN IF NOT EXISTS.
    """
    found = op.get_bind().scalar(
        text(
            "SELECT COUNT(*) FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name = :table AND column_name = :column"
        ),
        {"table": table, "column": column},
    )
    if not found:
        op.execute(f"ALTER TABLE {table} {', '.join([f'ADD COLUMN {column} {kind}', *more])}")
