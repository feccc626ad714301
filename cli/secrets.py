"""Secrets of an installation on one machine: files that only their owner may read, made when first needed."""

import secrets
from pathlib import Path
from typing import Final

from stack.paths import state_dir, write_private

SECRET_BYTES: Final = 48


def local_secret(name: str) -> Path:
    """Return the path of a secret, which is made if it does not exist."""
    path = state_dir() / "secrets" / name
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, secrets.token_urlsafe(SECRET_BYTES))
    return path
