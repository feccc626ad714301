"""`flashgate up` as its user sees it: everything under one supervisor, whatever dies comes back."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from stack.paths import PROJECT_ROOT
from stack.runtime import process_started
from tests.support.shop import campaign_text

SKU = "box"
VICTIMS = [
    "gateway 1",
    "gateway 2",
    "relay",
    "consumer orders",
    "consumer draws",
    "consumer points",
    "consumer warehouse",
    "reconciler",
    "ops",
    "redis",
    "kafka",
    "mariadb",
]
BUYERS_EACH = 40
CAMPAIGN = "c-up"


@dataclass
class Up:
    """A running `flashgate up` with a home of its own."""

    process: asyncio.subprocess.Process
    env: dict[str, str]
    home: Path
    url: str
    ops_url: str

    async def command(self, *args: str, code: int = 0) -> str:
        """Run a flashgate command and return what it printed last."""
        ran = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", *args, env=self.env, cwd=PROJECT_ROOT, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await ran.communicate()
        assert ran.returncode == code, out
        return out.decode().strip().splitlines()[-1] if out.strip() else ""

    def pids(self) -> dict[str, int]:
        """Return name → pid of the children, by their parent and their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) != self.process.pid:
                    continue
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found[name_of(line)] = int(entry.name)
        return found


def name_of(line: str) -> str:
    """Return a child's name by its command line."""
    if line.startswith("flashgate: "):
        return line.removeprefix("flashgate: ")
    for mark, name in (("redis-server", "redis"), ("kafka.Kafka", "kafka"), ("mariadbd", "mariadb")):
        if mark in line:
            return name
    return line


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    """Start `flashgate up` with two workers on free ports; stop it with SIGINT, and see that nothing is left."""
    home = tmp_path / "home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASHGATE_")}
    env = {**kept, "FLASHGATE_HOME": str(home), "PYTHONPATH": str(PROJECT_ROOT)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "up", "--workers", "2", "--port", "0", "--ops-port", "0"),
        env=env,
        cwd=PROJECT_ROOT,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = b""
    while b"Ctrl-C stops it" not in said:
        line = await process.stderr.readline()
        assert line, said.decode()
        said += line
    reading = asyncio.create_task(process.stderr.read())
    services = json.loads((home / "runtime.json").read_text())["services"]
    running = Up(process, env, home, services["gateway"], services["ops"])
    yield running
    pids = list(running.pids().values())
    process.send_signal(signal.SIGINT)
    await reading
    assert await process.wait() in {0, 130}
    assert [pid for pid in pids if process_started(pid) is not None] == []


async def test_any_process_may_be_killed_during_a_sale(up: Up, tmp_path: Path) -> None:
    """SIGKILL of any one process of `up` during a sale: no accepted order is lost, none is sold twice, all come back.

    Buyers ask again with the same key until there is a word. At the end the three stores agree, to the order.
    """
    file = tmp_path / "campaign.toml"
    buyers = BUYERS_EACH * len(VICTIMS)
    file.write_text(campaign_text(CAMPAIGN, stock=buyers - 10))
    await up.command("warehouse", "receive", SKU, str(buyers))
    await up.command("campaign", "load", str(file))
    await up.command("campaign", "open", CAMPAIGN)
    tokens = (await tokens_of(up, buyers)).split()
    before = up.pids()
    assert set(VICTIMS) <= set(before)
    accepted: dict[str, str] = {}
    codes: list[str] = []
    async with aiohttp.ClientSession() as session:
        for number, victim in enumerate(VICTIMS):
            mine = tokens[number * BUYERS_EACH : (number + 1) * BUYERS_EACH]
            crowd = [asyncio.create_task(persist(session, up.url, token, accepted)) for token in mine]
            await asyncio.sleep(0)
            os.kill(before[victim], signal.SIGKILL)
            codes += await asyncio.gather(*crowd)
            while up.pids().get(victim) in {None, before[victim]}:  # noqa: ASYNC110 -- what is waited for tells nobody
                await asyncio.sleep(0.05)
        assert (codes.count("ACCEPTED"), codes.count("SOLD_OUT")) == (buyers - 10, 10)
        assert len(set(accepted.values())) == buyers - 10
        report = await settled(up, buyers - 10)
        for token, order_id in accepted.items():
            assert await ask(session, up.url, token) == (202, order_id)
    (campaign,) = report["campaigns"]
    assert report["drift"] == 0
    (sku,) = campaign["skus"]
    assert (sku["taken"], sku["kafka_distinct"], sku["mysql_rows"], sku["mysql_sold"]) == (buyers - 10,) * 4
    await kafka_console_consumer_sees(up, set(accepted.values()))
    await metrics_are_served(up)


async def tokens_of(up: Up, count: int) -> str:
    """Return tokens of users b-1 … b-N, one a line."""
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "token", "--user", "b", "--count", str(count)),
        env=up.env,
        cwd=PROJECT_ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await ran.communicate()
    return out.decode()


async def ask(session: aiohttp.ClientSession, url: str, token: str) -> tuple[int, str]:
    """Send the one order of a buyer; returns status, and order id or problem code."""
    body = orjson.dumps({"campaign_id": CAMPAIGN, "sku_id": SKU, "quantity": 1})
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "the one"}
    async with session.post(f"{url}/v1/orders", data=body, headers=headers) as answer:
        said: dict[str, Any] = orjson.loads(await answer.read())
        return answer.status, said.get("order_id") or said["code"]


async def persist(session: aiohttp.ClientSession, url: str, token: str, accepted: dict[str, str]) -> str:
    """Ask until there is a word."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(10):
                status, word = await ask(session, url, token)
            if status == 202:
                assert accepted.setdefault(token, word) == word
                return "ACCEPTED"
            if status not in {429, 503}:
                return word
        await asyncio.sleep(0.1)


async def settled(up: Up, rows: int) -> dict[str, Any]:
    """Return the reconciliation once everything accepted is in MySQL."""
    while True:
        ran = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "reconcile", "--json"),
            env=up.env,
            cwd=PROJECT_ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await ran.communicate()
        if out.strip():
            report: dict[str, Any] = orjson.loads(out.splitlines()[-1])
            if report["in_flight"] == 0 and report["campaigns"][0]["skus"][0]["mysql_rows"] >= rows:
                return report


async def kafka_console_consumer_sees(up: Up, order_ids: set[str]) -> None:
    """Kafka's own console consumer reads `orders.accepted` and sees each order."""
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "stack", "kafka", "console-consumer"),
        *("--topic", "orders.accepted", "--from-beginning", "--timeout-ms", "8000"),
        env=up.env,
        cwd=PROJECT_ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await ran.communicate()
    assert {orjson.loads(line)["order_id"] for line in out.splitlines() if line.startswith(b"{")} == order_ids


async def metrics_are_served(up: Up) -> None:
    """The ops plane asks for its token and then tells decisions, batches, lag and drift."""
    token = (up.home / "secrets" / "ops.token").read_text()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{up.ops_url}/metrics") as refused:
            assert refused.status == 401
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(f"{up.ops_url}/metrics", headers=headers) as answer:
            assert answer.status == 200
            text = await answer.text()
    for name in (
        "flashgate_decisions_total",
        "flashgate_batch_size_count",
        "flashgate_redis_call_seconds_count",
        "flashgate_outbox_entries",
        "flashgate_consumer_lag",
        "flashgate_drift",
    ):
        assert re.search(rf"^{name}(\{{|\s)", text, re.MULTILINE), name
