"""The Lua scripts of `scripts/lua/`, read once and put together with what they include."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).resolve().parent.parent / "scripts" / "lua"
_INCLUDE: Final = re.compile(r"^--@include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis gets it, and the SHA-1 by which EVALSHA names it."""

    name: str
    text: str
    sha: str


def assemble(name: str, text: str) -> Script:
    """Return the script with its `--@include` lines replaced by the files in `include/`."""
    whole = _INCLUDE.sub(lambda match: (SCRIPTS / "include" / f"{match.group(1)}.lua").read_text(), text)
    return Script(name, whole, hashlib.sha1(whole.encode(), usedforsecurity=False).hexdigest())


@cache
def load_script(name: str) -> Script:
    """Return the script in `scripts/lua/<name>.lua`.

    Raises:
        FileNotFoundError: there is no such script.
    """
    return assemble(name, (SCRIPTS / f"{name}.lua").read_text())
