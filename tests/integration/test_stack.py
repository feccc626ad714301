"""The local stack with real servers, and its commands through the real script."""

import asyncio
import base64
import ipaddress
import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomysql
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from stack import packages
from stack.errors import ChildFailed, MissingPackagesError, StackInUseError
from stack.paths import PROJECT_ROOT
from stack.ports import free_port, is_free
from stack.runtime import clear_runtime, process_started, read_runtime, write_runtime
from stack.servers import SERVERS, Endpoints, LocalStack

DEADLINE_S = 60.0


def listening(pid: int) -> set[str]:
    """The addresses on which a process listens, as the kernel lists them."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if found := re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink())):
            inodes.add(found[1])
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                raw = bytes.fromhex(words[1].partition(":")[0])
                parts = (raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                addresses.add(str(ipaddress.ip_address(b"".join(parts))))
    return addresses


async def query(endpoints: Endpoints, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements and return the rows of the last one."""
    connection = await aiomysql.connect(
        host=endpoints.mysql_host,
        port=endpoints.mysql_port,
        user=endpoints.mysql_user,
        password=endpoints.mysql_password,
        autocommit=True,
    )
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            return list(await cursor.fetchall())
    finally:
        connection.close()


def pids(stack: LocalStack) -> dict[str, int]:
    """The running servers."""
    found = {name: stack.supervisor.pid(name) for name in SERVERS}
    return {name: pid for name, pid in found.items() if pid is not None}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    """A running stack under a path longer than a socket's name may be."""
    stack = LocalStack(tmp_path_factory.mktemp("stack") / ("deep-" * 24) / "home")
    await stack.start()
    yield stack
    running = pids(stack)
    await stack.stop()
    assert all(process_started(pid) is None for pid in running.values())


async def test_redis_keeps_what_it_answers(stack: LocalStack) -> None:
    """Every write is fsynced before its answer, nothing is evicted or dumped, DEBUG is there for tests."""
    client = Redis(host=stack.endpoints.redis_host, port=stack.endpoints.redis_port, decode_responses=True)
    try:
        promised = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
            "protected-mode": "yes",
            "enable-debug-command": "local",
        }
        for name, value in promised.items():
            assert await client.config_get(name) == {name: value}
        reply: object = await client.execute_command("DEBUG", "SLEEP", "0")  # type: ignore[no-untyped-call]
        assert reply in ("OK", b"OK")
    finally:
        await client.aclose()


async def test_mariadb_settings_and_rights(stack: LocalStack) -> None:
    """Durable, READ COMMITTED, utf8mb4, no binlog; the user reaches the fg_ schemas and nothing else."""
    names = (
        "innodb_flush_log_at_trx_commit",
        "transaction_isolation",
        "character_set_server",
        "log_bin",
        "max_connections",
        "skip_name_resolve",
    )
    # `transaction_isolation` is called tx_isolation in MariaDB before 11.1
    wanted = ", ".join(f"@@{'tx_isolation' if name == 'transaction_isolation' else name}" for name in names)
    [row] = await query(stack.endpoints, f"SELECT {wanted}")
    assert row == (1, "READ-COMMITTED", "utf8mb4", 0, 200, 1)
    schemas = {row[0] for row in await query(stack.endpoints, "SHOW DATABASES")}
    assert schemas == {"fg_orders", "fg_catalog", "fg_points", "information_schema"}
    await query(stack.endpoints, "CREATE DATABASE fg_extra", "DROP DATABASE fg_extra")
    with pytest.raises(aiomysql.OperationalError, match="Access denied"):
        await query(stack.endpoints, "CREATE DATABASE other")
    for user in ("root", "", "flashgate"):
        with pytest.raises(aiomysql.OperationalError, match="Access denied"):
            await aiomysql.connect(host="127.0.0.1", port=stack.endpoints.mysql_port, user=user, password="")


async def test_everything_listens_on_loopback_only(stack: LocalStack) -> None:
    """No server is reachable from another machine."""
    found = {name: listening(pid) for name, pid in pids(stack).items()}
    assert found == {name: {"127.0.0.1"} for name in SERVERS}


async def test_home_is_private(stack: LocalStack) -> None:
    """Nobody else may look into the home, and its secrets are closed by themselves."""
    assert stat.S_IMODE(stack.home.stat().st_mode) == 0o700
    for path in (stack.home / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stack.endpoints.mysql_password not in repr(stack.endpoints)


async def test_start_again_is_a_no_op(stack: LocalStack) -> None:
    """A second start changes nothing and answers the same."""
    before = pids(stack)
    assert await stack.start() == stack.endpoints
    assert pids(stack) == before


async def test_home_in_use_is_refused(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second stack on the same home would ruin its data."""
    monkeypatch.setattr("stack.servers.HOME_LOCK_TIMEOUT_S", 0.1)
    with pytest.raises(StackInUseError, match="in use"):
        await LocalStack(stack.home).start()


async def test_data_and_addresses_survive_a_restart(stack: LocalStack) -> None:
    """What the three servers acknowledged is there after a stop and a start, on the same ports."""
    before, endpoints = pids(stack), stack.endpoints
    redis = Redis(host=endpoints.redis_host, port=endpoints.redis_port)
    await redis.set("kept", "yes")
    await redis.aclose()
    await query(endpoints, "CREATE TABLE fg_orders.kept (id INT)", "INSERT INTO fg_orders.kept VALUES (7)")
    admin = AIOKafkaAdminClient(bootstrap_servers=endpoints.kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=endpoints.kafka_bootstrap, acks="all")
    await producer.start()
    await producer.send_and_wait("kept", b"yes")
    await producer.stop()

    await stack.stop()
    assert all(process_started(pid) is None for pid in before.values())
    assert await stack.start() == endpoints

    redis = Redis(host=endpoints.redis_host, port=endpoints.redis_port)
    assert await redis.get("kept") == b"yes"
    await redis.aclose()
    assert await query(endpoints, "SELECT id FROM fg_orders.kept") == [(7,)]
    consumer = AIOKafkaConsumer("kept", bootstrap_servers=endpoints.kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert (await consumer.getone()).value == b"yes"
    finally:
        await consumer.stop()


async def test_second_stack_beside_the_first_and_taken_ports(stack: LocalStack, tmp_path: Path) -> None:
    """Stacks share no port; a remembered port that somebody else took is picked anew, Kafka's too."""
    other = LocalStack(tmp_path / "home")
    endpoints = await other.start()
    try:
        ports = json.loads((tmp_path / "home" / "ports.json").read_text())
        assert not set(ports.values()) & set(json.loads((stack.home / "ports.json").read_text()).values())
        assert endpoints.mysql_password != stack.endpoints.mysql_password
    finally:
        await other.stop()
    thieves = [socket.create_server(("127.0.0.1", port)) for port in ports.values()]
    try:
        moved = await other.start()
        assert not set(json.loads((tmp_path / "home" / "ports.json").read_text()).values()) & set(ports.values())
        assert moved != endpoints
        assert await query(moved, "SELECT 1") == [(1,)]
    finally:
        await other.stop()
        for thief in thieves:
            thief.close()


async def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The server's own last words are in the error, and the others are stopped."""
    stack = LocalStack(tmp_path / "home")
    await stack.prepare()
    (tmp_path / "home" / "redis.conf").write_text("appendfsync perhaps\n")
    with pytest.raises(ChildFailed, match="appendfsync") as caught:
        await stack.start()
    assert caught.value.name == "redis"
    assert pids(stack) == {}


async def test_missing_packages_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without apt there is one clear line that says what to run."""
    monkeypatch.setattr(packages, "find", lambda *_names: None)
    with pytest.raises(MissingPackagesError, match=r"apt-get install -y redis-server mariadb-server .* maven$"):
        await packages.ensure(kafka_cached=False, log=tmp_path / "log", note=lambda _text: None)


def test_ports_lie_outside_the_kernels_own_range() -> None:
    """A port that the kernel could give to a client would be lost in a server's restart."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = free_port()
    assert port < lowest
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
    assert is_free(port)


def test_runtime_of_a_dead_process_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid that is alive but was started at another time is somebody else's."""
    monkeypatch.setenv("FLASHGATE_HOME", str(tmp_path / "state"))
    endpoints = Endpoints(
        redis_host="127.0.0.1",
        redis_port=1,
        kafka_bootstrap="127.0.0.1:2",
        mysql_host="127.0.0.1",
        mysql_port=3,
        mysql_user="flashgate",
        mysql_password=base64.b16encode(os.urandom(4)).decode(),
    )
    assert read_runtime() is None
    write_runtime(tmp_path, endpoints, owner="up", services={"gateway": "http://127.0.0.1:8080"})
    runtime = read_runtime()
    assert runtime is not None
    assert (runtime.endpoints, runtime.owner, runtime.pid) == (endpoints, "up", os.getpid())
    assert runtime.services == {"gateway": "http://127.0.0.1:8080"}
    path = tmp_path / "state" / "runtime.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid_started": 1}))
    assert read_runtime() is None
    write_runtime(tmp_path, endpoints, owner="up")
    clear_runtime()
    assert not path.exists()


def title(pid: int) -> str:
    """A process as `ps` shows it."""
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ")


class Script:
    """`./flashgate` with a state folder of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, from a folder that has nothing to do with it."""
        env = {**os.environ, "FLASHGATE_HOME": str(self.state)}
        command = (str(PROJECT_ROOT / "flashgate"), *args)
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False)

    def runtime_pid(self) -> int:
        """The background process."""
        return int(json.loads((self.state / "runtime.json").read_text())["pid"])


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    """The script; whatever a test leaves running is stopped."""
    script = Script(tmp_path_factory.mktemp("state"))
    yield script
    assert script.run("stack", "stop").returncode == 0


async def test_commands_from_start_to_stop(script: Script) -> None:
    """Start, again, status, Kafka's tool, stop, again: each says the truth by its exit code."""
    stopped = script.run("stack", "status", "--json")
    assert (stopped.returncode, json.loads(stopped.stdout)) == (1, {"running": False})
    assert "not running" in stopped.stderr
    assert "Traceback" not in stopped.stderr

    started = script.run("stack", "start", "--json")
    assert started.returncode == 0, started.stderr
    again = script.run("stack", "start", "--json")
    assert (again.returncode, again.stdout) == (0, started.stdout)
    assert "already running" in again.stderr
    status = script.run("stack", "status", "--json")
    assert (status.returncode, status.stdout) == (0, started.stdout)
    endpoints = Endpoints.from_json(json.loads(status.stdout.splitlines()[-1]))
    assert await query(endpoints, "SELECT 1") == [(1,)]
    assert endpoints.kafka_bootstrap in script.run("stack", "status").stdout
    daemon = script.runtime_pid()
    assert title(daemon) == "flashgate: stack"

    assert script.run("stack", "kafka", "topics", "--create", "--topic", "t").returncode == 0
    assert script.run("stack", "kafka", "topics", "--list").stdout.split() == ["t"]

    assert script.run("stack", "stop").returncode == 0
    assert process_started(daemon) is None
    assert script.run("stack", "stop").returncode == 0
    assert script.run("stack", "status").returncode == 1


def test_killed_background_process_leaves_nothing_and_can_start_again(script: Script) -> None:
    """After SIGKILL the servers end by themselves; the next start waits for them and finds their data whole."""
    assert script.run("stack", "start").returncode == 0
    os.kill(script.runtime_pid(), signal.SIGKILL)
    assert script.run("stack", "status").returncode == 1
    started = script.run("stack", "start", "--json")
    assert started.returncode == 0, started.stderr
    assert script.run("stack", "kafka", "topics", "--list").stdout.split() == ["t"]


def test_failed_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    """A start that cannot succeed exits 1 with the cause in words."""
    script = Script(tmp_path / "state")
    (tmp_path / "state" / "stack").mkdir(parents=True)
    (tmp_path / "state" / "stack" / "redis").write_text("a file where a folder should be")
    failed = script.run("stack", "start")
    assert failed.returncode == 1
    assert str(tmp_path / "state" / "stack" / "redis") in failed.stderr
    assert "Traceback" not in failed.stderr
    assert script.run("stack", "status").returncode == 1
