"""What the sandbox provider remembers, in SQLite: payments, callbacks not delivered yet, and what it was told.

Every method is one transaction. It outlives the process, though not a power failure (synchronous = NORMAL).
"""

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from domain.errors import ConfigError
from lifecycle.provider import ProviderState
from sandbox.rules import Behaviour, Mode, Payment, Planned

LOCK_TIMEOUT_S: Final = 5.0
VERSION: Final = 1

_SCHEMA: Final = f"""
    CREATE TABLE IF NOT EXISTS payment (
        payment_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, amount_cents INTEGER NOT NULL, state TEXT NOT NULL,
        mode TEXT NOT NULL, delay_s REAL NOT NULL, callback INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS payment_of ON payment (order_id);
    CREATE TABLE IF NOT EXISTS delivery (
        id INTEGER PRIMARY KEY AUTOINCREMENT, after_id INTEGER, due_s REAL NOT NULL, attempts INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS delivery_due ON delivery (due_s);
    CREATE TABLE IF NOT EXISTS told (
        about TEXT PRIMARY KEY, mode TEXT NOT NULL, delay_s REAL NOT NULL, callback INTEGER NOT NULL
    ) WITHOUT ROWID;
    PRAGMA user_version = {VERSION};
"""
_PAYMENT: Final = "SELECT payment_id, order_id, amount_cents, state, mode, delay_s, callback FROM payment"
_DUE: Final = """
    SELECT id, attempts, body FROM delivery
    WHERE due_s <= ? AND NOT EXISTS (SELECT 1 FROM delivery AS before WHERE before.id = delivery.after_id)
    ORDER BY due_s, id LIMIT ?
"""
_NEXT_DUE: Final = """
    SELECT due_s FROM delivery
    WHERE due_s > ? AND NOT EXISTS (SELECT 1 FROM delivery AS before WHERE before.id = delivery.after_id)
    ORDER BY due_s LIMIT 1
"""


class Delivery(NamedTuple):
    """A callback on its way.

    Attributes:
        number: of the delivery; an event may have several.
        attempts: made so far.
        body: what is sent.
    """

    number: int
    attempts: int
    body: bytes


class SandboxStore:
    """The database of one sandbox; nobody else may have it open."""

    def __init__(self, path: str) -> None:
        """Open a file, or memory if the path is empty.

        Raises:
            ConfigError: the file cannot be opened, is something else, or is in use.
        """
        try:
            self._db = sqlite3.connect(path or ":memory:", timeout=LOCK_TIMEOUT_S)
        except sqlite3.Error as error:
            raise ConfigError(f"sandbox.database: {path}: {error}") from None
        try:
            self._set_up()
        except sqlite3.Error as error:
            self._db.close()
            raise ConfigError(f"sandbox.database: {path}: {error}") from None

    def _set_up(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, VERSION}:
            raise sqlite3.DatabaseError(f"it is of version {version}, not {VERSION}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def count(self) -> int:
        """Return how many payments there are."""
        return int(self._db.execute("SELECT COUNT(*) FROM payment").fetchone()[0])

    def payment(self, payment_id: str) -> Payment | None:
        """Return a payment."""
        return next(iter(self._payments("payment_id = ?", payment_id)), None)

    def payments_of(self, order_id: str) -> list[Payment]:
        """Return an order's payments."""
        return self._payments("order_id = ?", order_id)

    def payments(self) -> list[Payment]:
        """Return all payments."""
        return self._payments("1")

    def _payments(self, condition: str, *values: str) -> list[Payment]:
        rows = self._db.execute(f"{_PAYMENT} WHERE {condition}", values)
        return [
            Payment(payment_id, order_id, cents, ProviderState(state), _behaviour(mode, delay_s, callback))
            for payment_id, order_id, cents, state, mode, delay_s, callback in rows
        ]

    def put(
        self, payment: Payment, planned: Sequence[Planned] = (), bodies: Sequence[bytes] = (), now_s: float = 0
    ) -> None:
        """Write a payment as it is from now on, and the callbacks that tell of it, with their bodies."""
        told = payment.behaviour
        row = (payment.payment_id, payment.order_id, payment.amount_cents, payment.state.value)
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO payment (payment_id, order_id, amount_cents, state, mode, delay_s, callback)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, told.mode.value, told.delay_s, told.callback),
            )
            numbers: list[int | None] = []
            for one, body in zip(planned, bodies, strict=True):
                after = None if one.after is None else numbers[one.after]
                made = self._db.execute(
                    "INSERT INTO delivery (after_id, due_s, attempts, body) VALUES (?, ?, 0, ?)",
                    (after, now_s + one.delay_s, body),
                )
                numbers.append(made.lastrowid)

    def told(self, about: str) -> Behaviour | None:
        """Return what was told about something."""
        row = self._db.execute("SELECT mode, delay_s, callback FROM told WHERE about = ?", (about,)).fetchone()
        return None if row is None else _behaviour(*row)

    def count_told(self) -> int:
        """Return about how many things something was told."""
        return int(self._db.execute("SELECT COUNT(*) FROM told").fetchone()[0])

    def tell(self, about: str, behaviour: Behaviour) -> None:
        """Remember what was told about something."""
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO told (about, mode, delay_s, callback) VALUES (?, ?, ?, ?)",
                (about, behaviour.mode.value, behaviour.delay_s, behaviour.callback),
            )

    def forget_told(self) -> None:
        """Forget all that was told; the calls that create the payments there are get honest answers again."""
        disturbed = (Mode.NONSENSE.value, Mode.TIMEOUT.value, Mode.CHARGE_THEN_TIMEOUT.value)
        with self._db:
            self._db.execute("DELETE FROM told")
            self._db.execute(
                "UPDATE payment SET mode = ?, callback = 0 WHERE mode IN (?, ?, ?)", (Mode.ASK.value, *disturbed)
            )

    def due(self, now_s: float, limit: int) -> list[Delivery]:
        """Return callbacks whose time has come, the longest due first."""
        return [Delivery(*row) for row in self._db.execute(_DUE, (now_s, limit))]

    def next_due_s(self, now_s: float) -> float | None:
        """Return when the next callback is due after now, Unix seconds."""
        row = self._db.execute(_NEXT_DUE, (now_s,)).fetchone()
        return None if row is None else float(row[0])

    def undelivered(self) -> int:
        """Return how many callbacks are not delivered yet."""
        return int(self._db.execute("SELECT COUNT(*) FROM delivery").fetchone()[0])

    def done(self, number: int) -> None:
        """Forget a callback: it was taken in, or given up."""
        with self._db:
            self._db.execute("DELETE FROM delivery WHERE id = ?", (number,))

    def postpone(self, number: int, due_s: float) -> None:
        """Note an attempt that failed, and when the next one is due."""
        with self._db:
            self._db.execute("UPDATE delivery SET attempts = attempts + 1, due_s = ? WHERE id = ?", (due_s, number))

    def hurry(self, now_s: float) -> None:
        """Make what was tried in vain due now."""
        with self._db:
            self._db.execute("UPDATE delivery SET due_s = ? WHERE attempts > 0 AND due_s > ?", (now_s, now_s))


def _behaviour(mode: str, delay_s: float, callback: int) -> Behaviour:
    return msgspec.convert({"mode": mode, "delay_s": delay_s, "callback": bool(callback)}, Behaviour)
