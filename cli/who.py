"""What operators' commands ask alike: who does it and why, and a key by which it is done once."""

import getpass
import secrets
from typing import Annotated

import typer

from warehouse.review_rules import WHO_CHARS_MAX, wrong_words

KeyOption = Annotated[str | None, typer.Option(help="Repeat with the same key to be sure: it is done once.")]
WhoOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who does it, for the books; default: the user of this computer.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="End with one line of JSON; errors are text on stderr.")]


def operator() -> str:
    """Return the name of this computer's user, or `unknown` if it has none."""
    try:
        return getpass.getuser()[:WHO_CHARS_MAX]
    except (KeyError, OSError):  # the user has no entry, as in some containers
        return "unknown"


def who_does_it(who: str | None, why: str) -> str:
    """Return who does something, once who and why have been found to be words.

    Raises:
        BadParameter: they are not.
    """
    who = operator() if who is None else who
    wrong = wrong_words(who, why)
    if wrong:
        raise typer.BadParameter(wrong)
    return who


def key_or_new(key: str | None) -> str:
    """Return the key that was given, or one that nobody has used; an empty one is not none."""
    return secrets.token_hex(8) if key is None else key
