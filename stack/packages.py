"""The programs that the stack runs, and the Debian packages that they come from."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from stack.errors import ChildFailed, MissingPackagesError
from stack.process import run_to_end

JAVA_VERSION_MIN: Final = 17
VERSION_TIMEOUT_S: Final = 30.0
SUDO_TIMEOUT_S: Final = 10.0
INSTALL_TIMEOUT_S: Final = 1_200.0
PACKAGE_OF: Final = {
    "redis-server": "redis-server",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "java": "default-jre-headless",
    "mvn": "maven",
    "nginx": "nginx-light",
    "wrk": "wrk",
}
_SYSTEM_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# Debian starts a service that it installs. policy-rc.d forbids it for as long as apt runs; one that was there
# before, also across an earlier run that was interrupted, is put back.
_INSTALL: Final = r"""
policy=/usr/sbin/policy-rc.d
kept=$policy.before-flashgate
restore() {
    if grep -q 'written by flashgate' "$policy" 2>/dev/null; then rm -f "$policy"; fi
    if [ -e "$kept" ]; then mv -f "$kept" "$policy"; fi
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
restore
if [ -e "$policy" ]; then mv "$policy" "$kept"; fi
printf '#!/bin/sh\n# written by flashgate while it installs packages\nexit 101\n' > "$policy"
chmod 755 "$policy"
export DEBIAN_FRONTEND=noninteractive
install() {
    apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "$@"
}
install "$@" || { apt-get update -q && install "$@"; }
"""


def find(*names: str) -> str | None:
    """The path of the first of these programs that is installed; system folders count though not on PATH."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def program(*names: str) -> str:
    """The path of an installed program.

    Raises:
        MissingPackagesError: none of these names is installed.
    """
    found = find(*names)
    if found is None:
        raise _missing([PACKAGE_OF[names[0]]])
    return found


def java() -> str | None:
    """The Java to use: JAVA_HOME's, else PATH's."""
    home = os.environ.get("JAVA_HOME", "")
    return find(str(Path(home) / "bin" / "java"), "java") if home else find("java")


async def ensure(*, kafka_cached: bool, log: Path, note: Callable[[str], None]) -> None:
    """Install what is missing.

    Args:
        kafka_cached: Kafka's program files are there, so that Maven is not needed.
        log: where apt's words go.
        note: told in one line what takes time.

    Raises:
        MissingPackagesError: something is missing and may not be installed from here, or apt failed.
    """
    missing = [] if find("redis-server") else ["redis-server"]
    if not find("mariadbd", "mysqld") or not find("mariadb-install-db"):
        missing.append("mariadb-server")
    if not await _java_is_new_enough(log):
        missing.append("default-jre-headless")
    if not kafka_cached and not find("mvn"):
        missing.append("maven")
    if missing:
        await _install(missing, log, note)
        if not await _java_is_new_enough(log):
            raise MissingPackagesError(f"Kafka needs Java {JAVA_VERSION_MIN} or newer; point JAVA_HOME at one")


async def ensure_programs(*names: str, log: Path, note: Callable[[str], None]) -> None:
    """Install the packages of those of these programs that are missing; arguments and errors as in `ensure`."""
    missing = [PACKAGE_OF[name] for name in names if find(name) is None]
    if missing:
        await _install(missing, log, note)


async def _java_is_new_enough(log: Path) -> bool:
    path = java()
    if path is None:
        return False
    answer = log.with_name("java-version.log")
    answer.unlink(missing_ok=True)
    try:
        await run_to_end("java -version", (path, "-version"), log=answer, timeout_s=VERSION_TIMEOUT_S)
    except (ChildFailed, TimeoutError):
        return False
    version = re.search(r'version "(\d+)', answer.read_text(encoding="utf-8", errors="replace"))
    return version is not None and int(version[1]) >= JAVA_VERSION_MIN


async def _install(packages: Sequence[str], log: Path, note: Callable[[str], None]) -> None:
    if find("apt-get") is None:
        raise _missing(packages)
    prefix: tuple[str, ...] = ()
    if os.geteuid() != 0:
        prefix = ("sudo", "-n")
        try:
            await run_to_end("sudo", (*prefix, "true"), log=log, timeout_s=SUDO_TIMEOUT_S)
        except (ChildFailed, TimeoutError):
            raise _missing(packages) from None
    note(f"installing Debian packages: {' '.join(packages)}")
    try:
        argv = (*prefix, "/bin/sh", "-c", _INSTALL, "sh", *packages)
        await run_to_end("apt-get install", argv, log=log, timeout_s=INSTALL_TIMEOUT_S)
    except (ChildFailed, TimeoutError) as error:
        raise MissingPackagesError(f"{error or 'apt-get took too long'}\n{_missing(packages)}") from error


def _missing(packages: Sequence[str]) -> MissingPackagesError:
    sudo = "" if os.geteuid() == 0 else "sudo "
    return MissingPackagesError(f"programs are missing; run: {sudo}apt-get install -y {' '.join(packages)}")
