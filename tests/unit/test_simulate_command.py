"""`flashgate bench simulate`: what a newcomer reads there, its JSON, and what it says to bad input."""

from pathlib import Path

import msgspec
import orjson
import pytest
from typer.testing import CliRunner, Result

from bench.capacity_costs import measured_costs
from bench.simulate_machine import busy_ticks
from cli.main import command_line
from tests.support.sweeps import sweep

SMALL = ["--users", "20000", "--rise-s", "1", "--skus", "5", "--stock", "100"]


def simulate(*options: str) -> Result:
    """Run the command."""
    words = ["bench", "simulate", *options]
    return CliRunner().invoke(command_line(["bench"]), words)


def run_of_a_sweep(folder: Path, **options: object) -> str:
    """Write a sweep's file, and return its folder."""
    folder.mkdir()
    measured = msgspec.structs.replace(sweep(), **options)
    (folder / "capacity.json").write_bytes(msgspec.json.encode(measured))
    return str(folder)


def test_it_tells_what_one_plans_a_sale_with() -> None:
    """Queues over time, sold out, refusals, backlog and drain, latency, machines; and that the costs are examples."""
    done = simulate(*SMALL)
    assert done.exit_code == 0, done.output
    for words in (
        "Example costs",
        "not measured",
        "(by example costs)",
        "at the gateways",
        "20,000, who sent",
        "500 of 500 units",
        "everything after",
        "SOLD_OUT 19,500",
        "longest queues",
        "MySQL had every order after",
        "p99",
        "machines needed, with 30% head-room",
    ):
        assert words in done.stdout


def test_json_is_one_line_on_stdout(tmp_path: Path) -> None:
    """Stdout has one line, of JSON; with a run its costs are taken, and nothing is said of examples."""
    done = simulate(*SMALL, "--json", "--run", run_of_a_sweep(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    facts = orjson.loads(line)
    assert facts["example_costs"] is False
    assert "xample" not in done.stderr
    assert facts["outcome"]["accepted"] == 500
    assert facts["model"]["costs"] == msgspec.to_builtins(measured_costs(sweep()))
    assert facts["machines"]["gateways"] >= 1
    assert orjson.loads(simulate(*SMALL, "--json").stdout)["example_costs"] is True


def test_no_stock_and_too_few_workers_are_said() -> None:
    """A sale without stock never "sells out"; what is at its limit is named."""
    assert "there was no stock" in simulate(*SMALL, "--stock", "0").stdout
    held_up = simulate("--users", "2000000", "--rise-s", "2", "--gateways", "1", "--stock", "100000").stdout
    (line,) = (one for one in held_up.splitlines() if one.startswith("at their limit"))
    assert "gateway" in line
    assert "CONNECTIONS" in held_up


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--run", "no-such-run"], "no-such-run: there is no capacity.json"),
        (["--validate"], "--validate needs a sweep"),
        (["--users", "0"], "--users"),
        (["--stock", "-1"], "--stock"),
        (["--network-ms", "nan"], "--network-ms"),
        (["--admit-per-s", "inf"], "must be finite"),
        (["--network-sigma", "9"], "--network-sigma"),
        (["--rise-s", "0.1", "--retries", "101"], "--retries"),
    ],
)
def test_bad_input_is_said_with_code_two(options: list[str], why: str) -> None:
    """A run that is not there, no sweep to validate, impossible values: exit code 2, and the reason on stderr."""
    done = simulate(*options)
    assert done.exit_code == 2
    assert why in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.mark.parametrize("options", [[], ["--validate"]], ids=["simulate", "validate"])
def test_sweep_with_too_few_points(tmp_path: Path, options: list[str]) -> None:
    """A sweep that cannot tell an order's cost from a refusal's is refused before anything is started."""
    run = run_of_a_sweep(tmp_path / "run", points=sweep().points[:3])
    done = simulate("--run", run, "--runs", str(tmp_path), *options)
    assert done.exit_code == 2
    assert "cannot be told apart" in done.stderr
    assert done.stderr.count("\n") == 1


def test_rate_of_the_sweep_itself_is_not_held_out(tmp_path: Path) -> None:
    """What the sweep has measured cannot be predicted from it."""
    done = simulate("--validate", "--run", run_of_a_sweep(tmp_path / "run"), "--rate", "4000", "--runs", str(tmp_path))
    assert done.exit_code == 2
    assert "offered in the sweep itself" in done.stderr


def test_busy_ticks_are_all_but_idle() -> None:
    """User, nice, system, interrupts and stolen time count; idle, iowait and guests, who are in user, do not."""
    assert busy_ticks("cpu  10 20 30 1000 2000 1 2 3 9 9\ncpu0 1 1 1 1 1 1 1 1 0 0\n") == 66
    with pytest.raises(ValueError, match="not /proc/stat"):
        busy_ticks("intr 1 2 3")
