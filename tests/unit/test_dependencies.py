"""What is imported is declared, locked, and no more than a module may load."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from stack.paths import PROJECT_ROOT

PRODUCT = (
    "adapters",
    "bench",
    "cli",
    "consumers",
    "domain",
    "gateway",
    "lifecycle",
    "migrations",
    "sandbox",
    "stack",
    "warehouse",
)
OF_IMPORT = {"jwt": "pyjwt", "hdrh": "hdrhistogram", "prometheus_client": "prometheus-client"}
IO_MODULES = ("redis", "aiohttp", "aiokafka", "aiomysql", "pymysql", "asyncio", "socket", "subprocess")
DECISIONS = (
    "gateway.view",
    "gateway.holders",
    "gateway.requests",
    "gateway.answers",
    "consumers.batch",
    "consumers.backlog",
    "lifecycle.rules",
)


def declared(group: str = "") -> set[str]:
    """Return the distributions that pyproject.toml names."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][group] if group else project["dependencies"]
    return {re.split(r"[<>=\[ ]", line)[0].lower() for line in lines}


OF_LOCUST = PROJECT_ROOT / "bench" / "locustfile.py"
"""Runs inside Locust alone, which the extra `load` brings."""


def third_party() -> set[str]:
    """Return the distributions that the product imports."""
    return imported_by(
        path for package in PRODUCT for path in (PROJECT_ROOT / package).rglob("*.py") if path != OF_LOCUST
    )


def imported_by(paths: Iterable[Path]) -> set[str]:
    """Return the distributions that these files import."""
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    ours = {path.name for path in PROJECT_ROOT.iterdir() if path.is_dir()}
    return {OF_IMPORT.get(name, name) for name in found - ours - set(sys.stdlib_module_names)}


def test_what_the_product_imports_is_declared() -> None:
    """The product runs without the tools of its developers: it imports declared dependencies alone."""
    assert third_party() <= declared()
    assert "locust" not in third_party()  # its import patches the standard library
    assert imported_by([OF_LOCUST]) <= declared() | declared("load")


def test_what_is_declared_is_locked_with_hashes() -> None:
    """Every declared dependency stands in the lock file, and everything there has a hash."""
    lock = (PROJECT_ROOT / "requirements.lock").read_text()
    pinned = {
        name.lower().replace("_", "-")
        for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", lock, re.MULTILINE)
    }
    assert declared() | declared("dev") | declared("load") <= pinned
    assert all(
        "--hash=sha256:" in piece for piece in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE) if "==" in piece
    )


@pytest.mark.parametrize("name", [*DECISIONS, "domain.*"])
def test_decisions_load_no_io_library(name: str) -> None:
    """A module that decides loads no I/O library, not through those that it imports either."""
    modules = (
        [f"domain.{path.stem}" for path in (PROJECT_ROOT / "domain").glob("*.py")] if name == "domain.*" else [name]
    )
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert not set(IO_MODULES) & set(ran.stdout.split())


def test_domain_asks_no_clock() -> None:
    """Nothing in domain/ calls now(), today() or time(): times are passed in."""
    for path in (PROJECT_ROOT / "domain").glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        assert not names & {"now", "utcnow", "today", "time", "monotonic", "perf_counter"}, path.name
