"""wrk as a closed-loop driver: every request another buyer's, with a token that was never sent before."""

import os
from pathlib import Path
from typing import Final

import msgspec

from bench.drive import Driven, Errand, body
from bench.errors import BenchError
from bench.tokens import Minter
from stack.errors import ChildFailed
from stack.packages import find
from stack.process import run_to_end

SCRIPT: Final = Path(__file__).with_name("wrk_orders.lua")
TIMEOUT_S: Final = 10
"""A request that takes longer is counted as an error."""
SPARE_S: Final = 60.0
"""How long wrk may take to begin and to end."""


class WrkResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What wrk_orders.lua writes."""

    sent: int
    answered: int
    above_399: int
    seconds: float
    p50_us: int
    p99_us: int
    max_us: int
    connect_errors: int
    read_errors: int
    write_errors: int
    timeouts: int


def parse_result(text: bytes) -> Driven:
    """Return what wrk_orders.lua has written.

    Raises:
        BenchError: it cannot be read, or contradicts itself.
    """
    try:
        found = msgspec.json.decode(text, type=WrkResult)
    except msgspec.MsgspecError as error:
        raise BenchError(f"wrk's result cannot be read: {error}") from None
    if not 0 <= found.above_399 <= found.answered <= found.sent:
        raise BenchError(f"wrk's result contradicts itself: {text.decode(errors='replace').strip()}")
    return Driven(
        driver="wrk",
        sent=found.sent,
        answered=found.answered,
        up_to_399=found.answered - found.above_399,
        errors=found.connect_errors + found.read_errors + found.write_errors + found.timeouts,
        seconds=found.seconds,
        p50_us=found.p50_us,
        p99_us=found.p99_us,
    )


def threads_for(cores: int, connections: int) -> int:
    """Return how many threads wrk gets: one drives more than a gateway worker answers, and leaves it the cores."""
    return max(1, min(cores // 2, 4, connections))


class Wrk:
    """Runs wrk."""

    def __init__(self, folder: Path, minter: Minter) -> None:
        """Take a folder for tokens, results and words.

        Raises:
            BenchError: wrk is not installed.
        """
        program = find("wrk")
        if program is None:
            raise BenchError("wrk is not installed; run: apt-get install -y wrk")
        self._program = program
        self._folder = folder
        self._minter = minter
        self._ready: tuple[str, int] = ("", 0)

    def prepare(self, errand: Errand) -> None:
        """Mint the tokens, which takes time that is not to be measured."""
        spare = threads_for(os.cpu_count() or 1, errand.connections) * errand.connections
        tokens = self._minter.mint_many(errand.prefix, errand.requests + spare)
        with (self._folder / "wrk.tokens").open("wb") as file:
            file.writelines(token + b"\n" for token in tokens)
        self._ready = (errand.prefix, errand.requests)

    async def drive(self, errand: Errand) -> Driven:
        """Run a prepared errand.

        Raises:
            BenchError: wrk failed.
        """
        assert self._ready == (errand.prefix, errand.requests)  # noqa: S101 -- prepared, and not used before
        self._ready = ("", 0)
        threads = threads_for(os.cpu_count() or 1, errand.connections)
        result = self._folder / "wrk.json"
        result.unlink(missing_ok=True)
        options = (f"-t{threads}", f"-c{errand.connections}", f"-d{errand.seconds}", "--timeout", str(TIMEOUT_S))
        url = f"http://{errand.host}:{errand.port}/v1/orders"
        bodies = "\n".join(body(errand.campaign_id, sku_id) for sku_id in errand.sku_ids)
        script = (str(self._folder / "wrk.tokens"), str(threads), bodies, f"{errand.prefix}-", str(result))
        spare = str(errand.connections)
        argv = (self._program, *options, "-s", str(SCRIPT), url, "--", *script, spare)
        try:
            await run_to_end("wrk", argv, log=self._folder / "wrk.log", timeout_s=errand.seconds + SPARE_S)
            return parse_result(result.read_bytes())
        except (ChildFailed, TimeoutError, OSError) as error:
            raise BenchError(f"wrk failed: {error}") from None
