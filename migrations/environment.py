"""What alembic runs for every schema; the connection is passed in by `migrations.runner`."""

from alembic import context
from sqlalchemy import Connection


def run() -> None:
    """Run the migrations on the connection that was passed in."""
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise TypeError("migrations are run by `./flashgate migrate`")
    context.configure(connection=connection, version_table="alembic_version")
    with context.begin_transaction():
        context.run_migrations()
