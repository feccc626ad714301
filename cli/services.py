"""flashgate's own processes as children of one supervisor: gateway workers, relay, consumers, reconciler, ops plane."""

import asyncio
import contextlib
import dataclasses
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from cli.config import as_environment
from cli.migrate import upgrade_all
from domain.errors import OperationRefusedError
from domain.settings import Settings
from gateway.app import listening_socket
from gateway.ops import MULTIPROCESS_DIR
from stack.paths import PROJECT_ROOT
from stack.supervisor import ChildSpec, Supervisor

READY_TIMEOUT_S: Final = 60.0
READY_POLL_S: Final = 0.05
READY_ANSWER_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What to run."""

    settings: Settings
    home: Path
    workers: int
    with_reconciler: bool = True
    with_ops: bool = True
    with_sandbox: bool = True
    """Run the payment sandbox, too, and have payments go there."""


class Services:
    """Runs a plan under a supervisor; the listening sockets are its own and outlive every worker."""

    def __init__(self, supervisor: Supervisor, plan: ServicePlan) -> None:
        self._supervisor = supervisor
        self._plan = plan
        self._sockets: list[socket.socket] = []
        self._names: list[str] = []

    @property
    def gateway_url(self) -> str:
        """Where the buyer plane is."""
        host, port = self._sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def ops_url(self) -> str:
        """Where the ops plane is."""
        ops = self._plan.settings.ops
        return f"http://{ops.host}:{ops.port}"

    @property
    def settings(self) -> Settings:
        """The settings that the processes get: with the sandbox, payments go there, and its callbacks come here."""
        settings = self._plan.settings
        if not self._plan.with_sandbox:
            return settings
        sandbox = msgspec.structs.replace(
            settings.sandbox,
            callback_url=f"{self.gateway_url}/v1/webhooks/payment",
            database=str(self._plan.home / "sandbox.sqlite"),
        )
        host = f"[{sandbox.host}]" if ":" in sandbox.host else sandbox.host
        payment = msgspec.structs.replace(settings.payment, provider_url=f"http://{host}:{sandbox.port}")
        return msgspec.structs.replace(settings, sandbox=sandbox, payment=payment)

    async def start(self) -> None:
        """Bring the schemas up to date, open the sockets, start everything, and wait until it is ready.

        Raises:
            FlashgateError: a process did not start, or is not ready in time; nothing of it is left running.
        """
        settings = self._plan.settings
        await asyncio.to_thread(upgrade_all, settings)
        self._sockets = self._listen()
        specs = self._specs()
        self._names = [spec.name for spec in specs]
        try:
            await self._supervisor.start(specs)
            await self._until_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop what `start` started."""
        await self._supervisor.remove(self._names)
        self.release_sockets()

    def release_sockets(self) -> None:
        """Close the listening sockets."""
        for listener in self._sockets:
            listener.close()
        self._sockets = []

    def _listen(self) -> list[socket.socket]:
        gateway = self._plan.settings.gateway
        try:
            first = listening_socket(gateway.host, gateway.port, gateway.backlog)
            port = first.getsockname()[1]
            others = [listening_socket(gateway.host, port, gateway.backlog) for _ in range(self._plan.workers - 1)]
        except OSError as error:
            raise OperationRefusedError(
                f"cannot listen on {gateway.host}:{gateway.port}: {error.strerror}; give another --port"
            ) from None
        return [first, *others]

    def _specs(self) -> list[ChildSpec]:
        counts = self._plan.home / "metrics"
        shutil.rmtree(counts, ignore_errors=True)
        counts.mkdir(parents=True)
        env = {
            **as_environment(msgspec.to_builtins(self.settings)),
            "PYTHONPATH": str(PROJECT_ROOT),
            MULTIPROCESS_DIR: str(counts),
        }

        def spec(name: str, *args: str) -> ChildSpec:
            return ChildSpec(
                name=name,
                argv=(sys.executable, "-m", "cli", *args),
                log=self._plan.home / "logs" / f"{name.replace(' ', '-')}.log",
                env=env,
            )

        specs = []
        for number, listener in enumerate(self._sockets, start=1):
            ready_file = self._plan.home / "run" / f"gateway-{number}.ready"
            ready_file.parent.mkdir(parents=True, exist_ok=True)
            ready_file.unlink(missing_ok=True)
            args = ("gateway", "--number", str(number), "--fd", str(listener.fileno()), "--ready-file", str(ready_file))
            worker = spec(f"gateway {number}", *args)
            specs.append(dataclasses.replace(worker, pass_fds=(listener.fileno(),), ready=_exists(ready_file)))
        specs.append(spec("relay", "relay"))
        specs += [
            spec("consumer orders" if number == 1 else f"consumer orders {number}", "consume", "orders")
            for number in range(1, self._plan.settings.consumer.processes + 1)
        ]
        specs.append(spec("consumer draws", "consume", "draws"))
        specs.append(spec("consumer points", "consume", "points"))
        specs.append(spec("consumer redemptions", "consume", "redemptions"))
        specs.append(spec("lifecycle", "lifecycle"))
        specs.append(spec("consumer warehouse", "consume", "warehouse"))
        if self._plan.with_sandbox:
            specs.append(spec("payment sandbox", "sandbox", "run"))
        if self._plan.with_reconciler:
            specs.append(spec("reconciler", "reconcile", "--watch"))
        if self._plan.with_ops:
            specs.append(spec("ops", "ops"))
        return specs

    async def _until_ready(self) -> None:
        """Wait until the gateway says that nothing is missing."""
        last = "no answer"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=READY_ANSWER_TIMEOUT_S)) as session:
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    while True:
                        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                            async with session.get(f"{self.gateway_url}/readyz") as response:
                                last = await response.text()
                                if response.status == 200:
                                    return
                        await asyncio.sleep(READY_POLL_S)
            except TimeoutError:
                raise OperationRefusedError(f"the gateway is not ready after {READY_TIMEOUT_S:.0f} s: {last}") from None


def _exists(path: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return path.exists()  # noqa: ASYNC240 -- one stat

    return ready
