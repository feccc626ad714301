"""What commands read from files and print as tables."""

from pathlib import Path
from typing import Final

from rich.console import Console

from domain.errors import ConfigError

FILE_WIDTH: Final = 1_000
"""Columns of a table that does not go to a terminal: nothing is cut off in a file."""


def read_text(path: Path) -> str:
    """Return what a file says.

    Raises:
        ConfigError: it cannot be read; the message names it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def table_console() -> Console:
    """Return where a table is printed that shows texts as they are."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console
