"""The local stack: Redis, Kafka and MariaDB with their own data, settings, secrets and logs under one home."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from stack import kafka, mariadb, packages, redis
from stack.errors import StackError
from stack.locks import lock_file
from stack.paths import write_private
from stack.ports import LOOPBACK, free_port, is_free
from stack.supervisor import ChildSpec, Event, Supervisor
from stack.tasks import all_or_first_error

SERVERS: Final = ("redis", "kafka", "mariadb")
HOME_LOCK_TIMEOUT_S: Final = 60.0
"""How long servers left behind by a killed supervisor may take to finish."""
_PORT_NAMES: Final = ("redis", "kafka", "kafka-controller", "mariadb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the three servers are reached."""

    redis_host: str
    redis_port: int
    kafka_bootstrap: str
    mysql_host: str
    mysql_port: int
    mysql_user: str
    mysql_password: str = dataclasses.field(repr=False)

    def to_json(self) -> dict[str, dict[str, str | int]]:
        """As `stack status --json` prints it."""
        return {
            "redis": {"host": self.redis_host, "port": self.redis_port},
            "kafka": {"bootstrap": self.kafka_bootstrap},
            "mysql": {
                "host": self.mysql_host,
                "port": self.mysql_port,
                "user": self.mysql_user,
                "password": self.mysql_password,
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, dict[str, Any]]) -> Self:
        """The reverse of `to_json`; KeyError or TypeError when it is something else."""
        mysql = data["mysql"]
        return cls(
            redis_host=data["redis"]["host"],
            redis_port=data["redis"]["port"],
            kafka_bootstrap=data["kafka"]["bootstrap"],
            mysql_host=mysql["host"],
            mysql_port=mysql["port"],
            mysql_user=mysql["user"],
            mysql_password=mysql["password"],
        )


class LocalStack:
    """Three servers under one home. One process at a time may run a home.

    Args:
        home: a folder of its own; made with mode 0700 when missing.
        supervisor: runs the servers as its children "redis", "kafka" and "mariadb"; None: one of its own.
        on_event: for the own supervisor: told what happens to the servers.
        note: told in one line of what takes time at a first start.
    """

    def __init__(
        self,
        home: Path,
        *,
        supervisor: Supervisor | None = None,
        on_event: Callable[[Event], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.supervisor = supervisor if supervisor is not None else Supervisor(on_event=on_event)
        self._note = note if note is not None else _say_nothing
        self._ports: dict[str, int] = {}
        self._lock: int | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers are; StackError before `prepare`."""
        ports = self._prepared()
        return Endpoints(
            redis_host=LOOPBACK,
            redis_port=ports["redis"],
            kafka_bootstrap=f"{LOOPBACK}:{ports['kafka']}",
            mysql_host=LOOPBACK,
            mysql_port=ports["mariadb"],
            mysql_user=mariadb.USER,
            mysql_password=mariadb.password(self.home),
        )

    async def prepare(self) -> Endpoints:
        """Bring everything about that the servers need: programs, ports, configuration, empty data folders.

        Raises:
            MissingPackagesError: programs are missing and may not be installed from here.
            StackInUseError: another process runs this home.
            ChildFailed: a tool that prepares a server failed.
        """
        if self._lock is not None:
            return self.endpoints
        for folder in (self.home, self.home / "logs", self.home / "secrets"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        self._lock = await lock_file(self.home / "lock", timeout_s=HOME_LOCK_TIMEOUT_S)
        try:
            logs = self.home / "logs"
            await packages.ensure(kafka_cached=kafka.libs().exists(), log=logs / "packages.log", note=self._note)
            await kafka.ensure_libs(log=logs / "kafka-libs.log", note=self._note)
            self._ports = ports = self._choose_ports()
            await all_or_first_error(
                (
                    redis.prepare(self.home, ports["redis"]),
                    mariadb.prepare(self.home, ports["mariadb"]),
                    kafka.prepare(self.home, (ports["kafka"], ports["kafka-controller"])),
                ),
            )
        except BaseException:
            self._unlock()
            raise
        return self.endpoints

    def specs(self) -> list[ChildSpec]:
        """How the servers are run; StackError before `prepare`."""
        ports = self._prepared()
        servers = (
            redis.spec(self.home, ports["redis"]),
            kafka.spec(self.home, (ports["kafka"], ports["kafka-controller"])),
            mariadb.spec(self.home, ports["mariadb"]),
        )
        # The servers hold the lock too, so nobody runs this home before the last of them is gone.
        fds = () if self._lock is None else (self._lock,)
        return [dataclasses.replace(server, pass_fds=fds) for server in servers]

    async def start(self) -> Endpoints:
        """Prepare and start the servers and wait until all answer; no-op while they run.

        Raises:
            ChildFailed: a server did not start; the others are stopped again. And what `prepare` raises.
        """
        if set(SERVERS) <= set(self.supervisor.names()):
            return self.endpoints
        await self.prepare()
        try:
            await self.supervisor.start(self.specs())
        except BaseException:
            self._unlock()
            raise
        return self.endpoints

    async def stop(self) -> None:
        """Stop the servers and forget them; nothing of them remains. Others of a shared supervisor go on."""
        await self.supervisor.remove(SERVERS)
        self._unlock()

    def _prepared(self) -> dict[str, int]:
        if not self._ports:
            raise StackError("the stack is not prepared")
        return self._ports

    def _choose_ports(self) -> dict[str, int]:
        """The ports of last time, as far as nobody else has taken them; written down for the next time."""
        path = self.home / "ports.json"
        known: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            known = json.loads(path.read_text(encoding="utf-8"))
        ports: dict[str, int] = {}
        for name in _PORT_NAMES:
            port = known.get(name)
            usable = isinstance(port, int) and port not in ports.values() and is_free(port)
            ports[name] = port if port is not None and usable else free_port(taken=ports.values())
        if ports != known:
            write_private(path, json.dumps(ports))
        return ports

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _say_nothing(_text: str) -> None:
    """Nobody wants to know."""
