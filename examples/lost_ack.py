"""A database commits, and its answer is lost. Was that purchase made?

Runs a MariaDB of its own and loses the answer to a COMMIT twice: under an application that trusts a version number,
and under one that writes a ledger row together with the deduction. docs/lost-ack.md explains what is seen.

Run it with `.venv/bin/python examples/lost_ack.py`. Exit code 0: the first deducted twice, the second once.
"""

import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adapters.mysql import Pool, query, transaction
from domain.errors import BackendError
from domain.settings import Dsn
from stack import mariadb, packages
from stack.errors import MissingPackagesError
from stack.ports import LOOPBACK, free_port
from stack.proxy import Proxy
from stack.supervisor import Supervisor

COMMIT = b"\x03COMMIT"
"""How the command looks on the wire; 3 says that a statement follows."""
STOCK = 10
CONNECT_TIMEOUT_S = 5.0


async def buy_by_version(pool: Pool) -> None:
    """Buy one unit, trusting the version number to tell whether the stock has changed since it was read."""
    while True:
        ((count, version),) = await query(pool, "SELECT count, version FROM stock")
        print(f"  read:  count {count}, version {version}")
        try:
            async with transaction(pool) as cursor:
                changed = await cursor.execute(
                    "UPDATE stock SET count = %s, version = %s WHERE version = %s",
                    (count - 1, version + 1, version),
                )
        except BackendError:
            print(f"  write: count {count - 1}, version {version + 1} … the connection is lost: written or not?")
            continue
        if changed:
            print(f"  write: count {count - 1}, version {version + 1} … done")
            return


async def buy_by_ledger(pool: Pool, purchase: str) -> None:
    """Buy one unit, with a row that says so written in the same transaction."""
    while True:
        nonce = secrets.token_bytes(16)
        try:
            async with transaction(pool) as cursor:
                await cursor.execute(
                    "INSERT INTO ledger (purchase, nonce) VALUES (%s, %s) ON DUPLICATE KEY UPDATE purchase = purchase",
                    (purchase, nonce),
                )
                await cursor.execute("SELECT nonce FROM ledger WHERE purchase = %s", (purchase,))
                (written_by,) = await cursor.fetchone()
                new = written_by == nonce
                print(f"  ledger: purchase {purchase} is {'new: deduct' if new else 'known: deduct nothing'}")
                if new:
                    await cursor.execute("UPDATE stock SET count = count - 1, version = version + 1")
        except BackendError:
            print("  commit … the connection is lost: written or not? It does not matter: again")
            continue
        print("  commit … done")
        return


async def reset(pool: Pool) -> None:
    """Put the stock back to where it began."""
    await query(pool, "UPDATE stock SET count = %s, version = 1", (STOCK,))


async def left(pool: Pool) -> int:
    """Return the units left."""
    ((count,),) = await query(pool, "SELECT count FROM stock")
    return int(count)


async def tell(direct: Dsn) -> bool:
    """Play both; returns whether they ended as expected."""
    plain = Pool(direct, size_max=1, connect_timeout_s=CONNECT_TIMEOUT_S)
    await query(plain, "CREATE TABLE stock (count INT NOT NULL, version INT NOT NULL)")
    await query(plain, "CREATE TABLE ledger (purchase VARCHAR(64) PRIMARY KEY, nonce BINARY(16) NOT NULL)")
    await query(plain, "INSERT INTO stock VALUES (%s, 1)", (STOCK,))
    async with Proxy(direct.host, direct.port) as proxy:
        dsn = Dsn(
            host=proxy.host,
            port=proxy.port,
            user=direct.user,
            password=direct.password,
            database=direct.database,
        )
        pool = Pool(dsn, size_max=1, connect_timeout_s=CONNECT_TIMEOUT_S)

        print(f"One purchase of one unit; {STOCK} in stock. The database commits, its answer is lost.")
        print("\nWith a version number:")
        proxy.cut_reply(COMMIT)
        await buy_by_version(pool)
        by_version = await left(plain)

        await reset(plain)
        print("\nWith a ledger row in the same transaction:")
        proxy.cut_reply(COMMIT)
        await buy_by_ledger(pool, "order-1")
        by_ledger = await left(plain)
        await pool.close()
    await plain.close()

    print(f"\nversion number: {by_version} left, so the purchase was deducted {times(STOCK - by_version)}")
    print(f"ledger row:     {by_ledger} left, so the purchase was deducted {times(STOCK - by_ledger)}")
    return (by_version, by_ledger) == (STOCK - 2, STOCK - 1)


def times(count: int) -> str:
    """Return a number of times in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


async def main() -> int:
    """Run a MariaDB in a temporary folder, and the story on it; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="flashgate-") as folder:
        home = Path(folder)
        for name in ("logs", "secrets"):
            (home / name).mkdir(mode=0o700)
        port = free_port()
        await mariadb.prepare(home, port)
        supervisor = Supervisor()
        try:
            await supervisor.start([mariadb.spec(home, port)])
            dsn = Dsn(
                host=LOOPBACK,
                port=port,
                user=mariadb.USER,
                password=mariadb.password(home),
                database="fg_orders",
            )
            expected = await tell(dsn)
        finally:
            await supervisor.stop()
    return 0 if expected else 1


if __name__ == "__main__":
    try:
        packages.program("mariadbd", "mysqld")
    except MissingPackagesError as error:
        sys.exit(str(error))
    sys.exit(asyncio.run(main()))
