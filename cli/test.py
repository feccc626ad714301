"""`flashgate test`: everything that a change has to pass, and the proof that the fault tests can fail."""

import os
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from domain.errors import OperationRefusedError
from stack.paths import PROJECT_ROOT

MECHANISMS: Final = PROJECT_ROOT / "tests" / "mechanisms.toml"
SWITCH_VARIABLE: Final = "FG_SWITCH_OFF"
PROOF_TIMEOUT_S: Final = 300
AT_ONCE: Final = 2
"""Tests wait more than they compute; each of so many processes has servers of its own, and takes whole files."""
ASSERTION_MARKS: Final = ("AssertionError", "assert ", "Failed: DID NOT RAISE")


class Mechanism(NamedTuple):
    """One entry of tests/mechanisms.toml."""

    fault: int
    test: str
    switch: str
    guards: str


def test(
    pytest_args: Annotated[list[str] | None, typer.Argument(help="Passed on to pytest, after --.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The slow tests, too.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Switch each mechanism off in turn and expect its test to fail.")
    ] = False,
) -> None:
    """Run linters, type checks and the tests, on real servers of their own; up to 10 minutes."""
    if not (PROJECT_ROOT / "tests").is_dir():
        raise OperationRefusedError("the tests are not here; run this in a checkout")
    raise typer.Exit(_prove() if prove else _run_all(pytest_args or [], everything=everything))


def _run_all(pytest_args: list[str], *, everything: bool) -> int:
    for tool in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        typer.echo(f"{' '.join(tool)} …")
        code = _python("-m", *tool).returncode
        if code:
            return code
    marks = () if everything else ("-m", "not slow")
    return _python("-m", "pytest", "-n", str(AT_ONCE), "--dist", "loadfile", *marks, *pytest_args).returncode


def _python(*args: str, **env: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        (sys.executable, *args), cwd=PROJECT_ROOT, env={**_environment(), **env}, check=False, timeout=None
    )


def _environment() -> dict[str, str]:
    """Return the environment without settings: tests make their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASHGATE_")}
    return {**kept, "PYTHONPATH": str(PROJECT_ROOT)}


def read_mechanisms() -> list[Mechanism]:
    """Return the entries of tests/mechanisms.toml, by fault."""
    data = tomllib.loads(MECHANISMS.read_text(encoding="utf-8"))
    return sorted(Mechanism(**entry) for entry in data["mechanism"])


def _prove() -> int:
    """Run each guarded test with its mechanism off; it must fail, and by an assertion."""
    failed, unproved = 0, []
    mechanisms = read_mechanisms()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = pool.map(_verdict, mechanisms)
        for number, (mechanism, verdict) in enumerate(zip(mechanisms, verdicts, strict=True), start=1):
            typer.echo(f"[{number}/{len(mechanisms)}] {_told(mechanism, verdict)}")
            if verdict:
                unproved.append(mechanism)
    # Two tests at a time share the processor, which may upset a race that a proof relies on: once more, alone.
    for mechanism in unproved:
        verdict = _verdict(mechanism)
        failed += verdict != ""
        typer.echo(f"[again, alone] {_told(mechanism, verdict)}")
    typer.echo(f"{len(mechanisms) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _told(mechanism: Mechanism, verdict: str) -> str:
    state = f"NOT PROVED: {verdict}" if verdict else "turns red"
    return f"fault {mechanism.fault}, {mechanism.switch} off: {state}\n    guards: {mechanism.guards}"


def _verdict(mechanism: Mechanism) -> str:
    """Return why a proof does not count, or an empty string."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        try:
            subprocess.run(
                (sys.executable, "-m", "pytest", "-q", "-x", f"--junitxml={report}", mechanism.test),
                cwd=PROJECT_ROOT,
                env={**_environment(), SWITCH_VARIABLE: mechanism.switch},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=PROOF_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return f"no result after {PROOF_TIMEOUT_S} s"
        if not report.exists():
            return "pytest left no report"
        failures = [
            failure.get("message", "")
            for failure in ET.parse(report).iter("failure")  # noqa: S314 -- our own file
        ]
    if not failures:
        return "the test still passes, or did not run"
    if not any(failures[0].startswith(mark) for mark in ASSERTION_MARKS):
        return f"it failed otherwise than by an assertion: {failures[0][:160]}"
    return ""
