"""Alembic's entry for this schema."""

from migrations import environment

environment.run()
