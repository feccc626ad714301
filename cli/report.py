"""`flashgate report`: a capacity report out of sweeps, as one self-contained page."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import orjson
import typer

from bench.capacity_facts import Sweep, merge_sweeps, read_sweep
from bench.capacity_plan import SLO, Plan, plan
from bench.errors import BenchError
from bench.report import build
from bench.report_compare import build_comparison
from cli.bench_run import EXIT_FAILED, RUNS

FILE = "capacity.json"
BYTES_MAX = 64 * 1024 * 1024


def report(
    *,
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Folders of `bench sweep`, or names under runs/.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("capacity.html"),
    target: Annotated[
        float | None, typer.Option(help="Accepted orders a second that are wanted; default: twice what is sustained.")
    ] = None,
    slo: Annotated[str, typer.Option(help="What a sustained rate must keep.")] = SLO,
    compare: Annotated[bool, typer.Option("--compare", help="Two runs side by side: A B.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON: the recommendation.")] = False,
) -> None:
    """Make one page of what sweeps have measured: what is sustained, what gives first, what a target needs.

    The page needs no network and no script. Several runs count as one if they are of one version and machine. Exit
    code 2 if nothing can be recommended: no points past the knee, an empty run, an SLO that no rate keeps, a target
    out of reach.
    """
    try:
        sweeps = {name: read_run(name) for name in runs}
        if compare:
            page, told = _compared(sweeps, list(runs), slo, target), None
        else:
            sweep = merge_sweeps(sweeps)
            told = plan(sweep, slo=slo, target_per_s=target)
            page = build(sweep, told, list(sweeps))
        _replace(output, page)
    except (BenchError, OSError) as error:
        sys.stderr.write(f"flashgate report: {error}\n")
        raise typer.Exit(EXIT_FAILED) from None
    typer.echo(f"written: {output}", err=True)
    if told is not None:
        for line in (told.sentence, *told.warnings):
            typer.echo(line, err=json)
    if json:
        facts = {"report": str(output)} | ({} if told is None else facts_of(told))
        typer.echo(orjson.dumps(facts).decode())


def _replace(output: Path, text: str) -> None:
    """Write beside it first: a page that stands there is whole, or stays as it is."""
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)


def facts_of(told: Plan) -> dict[str, object]:
    """Return the recommendation as plain values."""
    return {
        "sentence": told.sentence,
        "warnings": told.warnings,
        "slo": told.slo,
        "sustained_per_s": told.sustained.offered_per_s,
        "p99_ms": told.sustained.p99_ms,
        "workers": told.sustained.workers,
        "target_per_s": told.target_per_s,
        "needs": msgspec.to_builtins(told.needs),
        "rooms": [{"component": one.component, "used_cores": one.used_cores} for one in told.rooms],
    }


def read_run(name: str) -> Sweep:
    """Return a run: a folder, its file, or a name under `runs/`.

    Raises:
        BenchError: there is none, or it is no sweep.
    """
    for path in (Path(name), Path(name) / FILE, RUNS / name / FILE):
        if path.is_file():
            if path.stat().st_size > BYTES_MAX:
                raise BenchError(f"{name}: {path} is too large for a sweep")
            return read_sweep(path.read_bytes(), name)
    raise BenchError(f"{name}: there is no {FILE}; it is written by `flashgate bench sweep`")


def _compared(sweeps: dict[str, Sweep], names: list[str], slo: str, target: float | None) -> str:
    if len(names) != 2:
        raise BenchError(f"--compare takes two runs, not {len(names)}")
    a, b = (sweeps[name] for name in names)
    return build_comparison((a, b), (_planned(a, slo, target), _planned(b, slo, target)), (names[0], names[1]))


def _planned(sweep: Sweep, slo: str, target: float | None) -> Plan | None:
    """Return what a run recommends; nothing, where that cannot be told: its figures stand all the same."""
    try:
        return plan(sweep, slo=slo, target_per_s=target)
    except BenchError as error:
        typer.echo(f"flashgate report: {error}", err=True)
        return None
