"""MariaDB: one user for flashgate, over loopback; root only over the socket in the data folder."""

import functools
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

import aiomysql

from stack.packages import program
from stack.paths import write_private
from stack.ports import LOOPBACK
from stack.process import run_to_end
from stack.supervisor import ChildSpec

USER: Final = "flashgate"
SCHEMAS: Final = ("fg_orders", "fg_catalog", "fg_points")
INSTALL_TIMEOUT_S: Final = 120.0
CONNECT_TIMEOUT_S: Final = 3


def _config(home: Path, port: int) -> str:
    # The socket's path is relative to datadir, for it may not be longer than 107 bytes however deep the home lies.
    return f"""\
[mariadbd]
datadir = {home / "mariadb"}
tmpdir = {home / "tmp"}
socket = mariadbd.sock
pid-file = mariadbd.pid
init-file = {home / "secrets" / "mariadb.sql"}
bind-address = {LOOPBACK}
port = {port}
skip-name-resolve
skip-log-bin
local-infile = 0
max-connections = 200
back-log = 200
character-set-server = utf8mb4
transaction-isolation = READ-COMMITTED
sql-mode = STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION
innodb-buffer-pool-size = 128M
innodb-log-file-size = 64M
innodb-flush-log-at-trx-commit = 1
"""


def _init_sql(password: str) -> str:
    """What the server runs at each start before it lets anyone in, one statement a line."""
    account = f"'{USER}'@'{LOOPBACK}'"
    return "\n".join(
        (
            f"CREATE USER IF NOT EXISTS {account};",
            f"ALTER USER {account} IDENTIFIED BY '{password}';",
            rf"GRANT ALL PRIVILEGES ON `fg\_%`.* TO {account};",
            *(f"CREATE DATABASE IF NOT EXISTS {schema} CHARACTER SET utf8mb4;" for schema in SCHEMAS),
            "",
        ),
    )


def password(home: Path) -> str:
    """The user's password; made when there is none yet."""
    path = home / "secrets" / "mysql_password"
    if not path.exists():
        write_private(path, secrets.token_hex(16))
    return path.read_text(encoding="utf-8")


async def prepare(home: Path, port: int) -> None:
    """Make the data folder when there is none yet, and write the configuration.

    Raises:
        ChildFailed: mariadb-install-db failed.
    """
    data = home / "mariadb"
    (home / "tmp").mkdir(mode=0o700, exist_ok=True)
    write_private(home / "mariadb.cnf", _config(home, port))
    write_private(home / "secrets" / "mariadb.sql", _init_sql(password(home)))
    if data.exists():
        return
    part = home / "mariadb.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    await run_to_end(
        "mariadb-install-db",
        (
            program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={part}",
            "--auth-root-authentication-method=socket",
            "--skip-test-db",
            *_as_root(),
        ),
        log=home / "logs" / "mariadb-install.log",
        timeout_s=INSTALL_TIMEOUT_S,
    )
    part.rename(data)


def spec(home: Path, port: int) -> ChildSpec:
    """How to run it."""
    return ChildSpec(
        name="mariadb",
        argv=(program("mariadbd", "mysqld"), f"--defaults-file={home / 'mariadb.cnf'}", *_as_root()),
        log=home / "logs" / "mariadb.log",
        ready=functools.partial(answers, port, password(home)),
        stop_timeout_s=60.0,  # a kill is safe, but the next start then repeats the redo log
    )


async def answers(port: int, user_password: str) -> bool:
    """Whether the user can log in and is served."""
    connection = await aiomysql.connect(
        host=LOOPBACK,
        port=port,
        user=USER,
        password=user_password,
        connect_timeout=CONNECT_TIMEOUT_S,
    )
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT 1")
            return bool(await cursor.fetchone() == (1,))
    finally:
        connection.close()


def _as_root() -> tuple[str, ...]:
    """The server refuses to run as root unless told that it is meant."""
    return ("--user=root",) if os.geteuid() == 0 else ()
