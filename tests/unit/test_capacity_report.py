"""The report's page: its figures are the run's, its recommendation is its table's, and nothing in it is live."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import orjson
import pytest
from typer.testing import CliRunner

from bench.capacity_facts import Sweep
from bench.capacity_plan import Plan, plan
from bench.report import build
from bench.report_compare import build_comparison
from bench.report_svg import Chart, Series, bars, draw
from cli.main import command_line
from tests.support.sweeps import sweep


class Page(HTMLParser):
    """Reads a page: its tables by id, as rows of (text, value), its tags and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._table: list[list[tuple[str, float | None]]] = []
        self._cell: list[str] | None = None
        self._value: float | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row or a cell."""
        found = dict(attrs)
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self._table = self.tables[str(found["id"])] = []
        elif tag == "tr":
            self._table.append([])
        elif tag in {"td", "th"}:
            self._cell = []
            told = found.get("data-value")
            self._value = float(told) if told is not None else None

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag in {"td", "th"} and self._cell is not None:
            self._table[-1].append(("".join(self._cell), self._value))
            self._cell = None

    def handle_data(self, data: str) -> None:
        """Take text."""
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    def values(self, table: str) -> list[list[float | None]]:
        """Return a table's values without its head."""
        return [[value for _, value in row] for row in self.tables[table][1:]]


def made(measured: Sweep | None = None, **options: float) -> tuple[Sweep, Plan, Page, str]:
    """Return a sweep, its plan, and the page, read and as it is."""
    one = measured or sweep()
    told = plan(one, target_per_s=options.get("target"))
    html = build(one, told, ["run-1"])
    return one, told, Page(html), html


def test_figures_are_those_of_the_run() -> None:
    """Every point, cost, law and count on the page has the value that the run and its plan have."""
    one, told, page, _ = made()
    rows = page.values("points")
    assert len(rows) == len(one.points)
    for row, point in zip(rows, one.points, strict=True):
        assert row == [
            point.workers,
            point.offered_per_s,
            point.refused_share,
            point.achieved_per_s,
            point.accepted,
            point.refusals,
            point.failed,
            point.p50_ms,
            point.p99_ms,
            point.p99_9_ms,
            point.backlog_max,
            point.drain_s,
        ]
    costs = {row[0][0]: [value for _, value in row] for row in page.tables["costs"][1:]}
    assert "lifecycle" not in costs  # it costs an order nothing
    assert "lifecycle" in page.text
    for part in told.costs.parts:
        if part.component == "lifecycle":
            continue
        assert costs[part.component][1:3] == [part.accepted_us, part.batch_us]
        assert costs[part.component][4:6] == [part.floor_us, part.refused_us]
    for row, (workers, fit) in zip(page.values("law"), told.fits.items(), strict=True):
        assert row[:4] == [workers, fit.law.lambda_, fit.law.sigma, fit.law.kappa]
    proof = one.proof
    counts = [proof.answered_202, proof.redis_taken, proof.kafka_distinct, proof.mysql_rows, proof.mysql_sold, 0, 0]
    assert [row[1] for row in page.values("proof")] == counts
    assert page.tables["environment"][3][1][0] == one.commit


def test_recommendation_follows_from_the_table() -> None:
    """The sentence says the table's first row, the sustained point, and what is first among what gives."""
    _, told, page, _ = made(target=50_000)
    sentence = told.sentence
    assert sentence in page.text
    _, orders, gateways, shards, _, consumers, _, _, _ = page.values("machines")[0]
    assert orders == 50_000
    for count, what in ((gateways, "gateway worker"), (shards, "Redis shard"), (consumers, "consumer")):
        assert re.search(rf"\b{count:.0f} {what}s?\b", sentence)
    (here,) = [row for row in page.values("points") if row[1] == told.sustained.offered_per_s and row[0] == 1]
    assert f"Sustains {here[1]:,.0f} orders/s" in sentence
    rooms = page.tables["rooms"][1:]
    assert rooms[0][3][1] == min(row[3][1] or 0.0 for row in rooms)
    assert f"first to give: {rooms[0][0][0]} here, {page.tables['machines'][1][-1][0]} there" in sentence
    assert [row[0] for row in page.values("machines")] == [1, 2, 5, 10]


def test_peak_and_lasting_rate_are_told_apart() -> None:
    """A rate that the machine cannot hold for ever is said to be a peak's, with what it can hold."""
    one = sweep()
    told = plan(one)
    slow = {name: used * 20 for name, used in told.sustained.cpu_s.items()}
    points = [msgspec.structs.replace(p, cpu_s=slow) if p == told.sustained else p for p in one.points]
    for measured in (one, msgspec.structs.replace(one, points=points)):
        again = plan(measured)
        lasting = again.rooms[0].gives_at_per_s
        assert again.for_how_long in Page(build(measured, again, ["run"])).text
        if lasting >= again.sustained.offered_per_s:
            assert again.for_how_long.startswith("MySQL kept in step")
        else:
            assert f"{lasting:,.0f} orders/s can be held" in again.for_how_long
    assert again.rooms[0].gives_at_per_s < again.sustained.offered_per_s


def test_law_without_a_bound_ends_with_the_measurements() -> None:
    """Where resamples have no bound nothing is drawn beyond the last measured N, and the page says so."""
    one = sweep()
    told = plan(one)
    assert "cannot be said" not in Page(build(one, told, ["run"])).text
    workers = told.sustained.workers
    open_ended = msgspec.structs.replace(told.fits[workers], peak_high=None)
    told = msgspec.structs.replace(told, fits=told.fits | {workers: open_ended})
    assert not told.fits[workers].bounded
    assert not msgspec.structs.replace(open_ended, peak_low=1_000.0, peak_high=3_001.0).bounded
    assert msgspec.structs.replace(open_ended, peak_low=1_000.0, peak_high=3_000.0).bounded
    assert "cannot be said" in Page(build(one, told, ["run"])).text


def test_page_is_self_contained_and_can_be_heard() -> None:
    """No script, no link, no picture from elsewhere; every chart has a title and a description."""
    _, _, page, html = made()
    assert not {"script", "link", "img", "iframe", "object", "foreignobject"} & {tag.lower() for tag in page.tags}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"src", "href", "srcset"}]
    assert "url(" not in html
    assert "@import" not in html
    assert page.tags.count("svg") >= 7
    assert html.count('role="img"') == page.tags.count("svg") == page.tags.count("desc")
    assert "@media print" in html
    assert "width=device-width" in html
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_what_comes_from_a_run_is_escaped() -> None:
    """Markup in a run's name, machine, versions or processes comes out as text."""
    evil = "<script>alert(1)</script>"
    one = sweep()
    about = one.environment | {"machine": {"cpu": evil, "cores": 4, "kernel": evil}, "versions": {evil: evil}}
    points = [msgspec.structs.replace(p, cpu_s=p.cpu_s | {evil: 1.0}, load_cpu_s=p.load_cpu_s) for p in one.points]
    told = msgspec.structs.replace(one, environment=about, points=points)
    html = build(told, plan(told), [evil])
    assert evil not in html
    assert "&lt;script&gt;" in html
    both = build_comparison((told, told), (plan(told), None), (evil, evil))
    assert evil not in both


def test_compared_runs_stand_side_by_side() -> None:
    """Both runs' figures and their ratio are in one table; other versions are said, not refused."""
    a, b = sweep(), sweep(commit="b" * 40, rates=(2_000, 4_000, 6_000, 9_000, 12_000))
    page = Page(build_comparison((a, b), (plan(a), plan(b)), ("first", "second")))
    changes = {row[0][0]: [value for _, value in row[1:]] for row in page.tables["changes"][1:]}
    assert changes["sustained orders / s"] == [8_000, 9_000, 9_000 / 8_000]
    assert "different versions" in page.text
    assert [cell[0] for cell in page.tables["runs"][1]] == ["run", "first", "second"]


def test_charts_without_anything_are_refused() -> None:
    """A chart of nothing is an error, not an empty frame; odd values stay within the frame."""
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(Chart("t", "d", "x", "y", [Series("a", [])]), 1)
    with pytest.raises(ValueError, match="nothing to draw"):
        bars("t", "d", [("row", [("part", 0.0)])], "cores", 1)
    assert "nan" not in draw(Chart("t", "d", "x", "y", [Series("a", [(0, 0), (1, 0)])], log_y=True), 1)


def write(folder: Path, name: str, measured: Sweep) -> Path:
    """Write a run."""
    (folder / name).mkdir()
    (folder / name / "capacity.json").write_bytes(msgspec.json.encode(measured))
    return folder / name


def test_command(tmp_path: Path) -> None:
    """The command writes the page, says the sentence, and its JSON has the same needs as the page."""
    run, out = write(tmp_path, "a", sweep()), tmp_path / "out.html"
    options = ["-o", str(out), "--target", "50000", "--json"]
    done = CliRunner().invoke(command_line(["report"]), ["report", str(run), *options])
    assert done.exit_code == 0, done.output
    facts = orjson.loads(done.stdout.splitlines()[-1])
    page = Page(out.read_text())
    assert facts["sentence"] in page.text
    assert [one["gateways"] for one in facts["needs"]] == [row[2] for row in page.values("machines")]


@pytest.mark.parametrize(
    ("runs", "options", "why"),
    [
        (["a"], ["--target", "1e12"], "unreachable target"),
        (["a"], ["--slo", "p99<1us"], "unreachable: no offered rate kept"),
        (["a"], ["--slo", "quick"], "--slo"),
        (["a", "other"], [], "different versions"),
        (["empty"], [], "an empty run"),
        (["flat"], [], "no points past the knee"),
        (["nowhere"], [], "there is no capacity.json"),
        (["text"], [], "text"),
        (["a"], ["--compare"], "--compare takes two runs"),
    ],
)
def test_bad_input_is_one_line_and_two(tmp_path: Path, runs: list[str], options: list[str], why: str) -> None:
    """Whatever nothing can be recommended from ends with code 2 and one line that says why; an old page stays."""
    write(tmp_path, "a", sweep())
    write(tmp_path, "other", sweep(commit="b" * 40))
    write(tmp_path, "empty", msgspec.structs.replace(sweep(), points=[]))
    write(tmp_path, "flat", sweep(rates=(2_000, 4_000, 6_000)))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "capacity.json").write_text("no JSON")
    out = tmp_path / "out.html"
    out.write_text("an older page")
    paths = [str(tmp_path / run) for run in runs]
    done = CliRunner().invoke(command_line(["report"]), ["report", *paths, "-o", str(out), *options])
    assert done.exit_code == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert out.read_text() == "an older page"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.html"]


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that is not there is told with code 2."""
    run = write(tmp_path, "a", sweep())
    done = CliRunner().invoke(command_line(["report"]), ["report", str(run), "-o", str(tmp_path / "no" / "x.html")])
    assert (done.exit_code, "flashgate report: " in done.stderr) == (2, True)
    assert "No such file or directory" in done.stderr


def test_no_run_is_refused() -> None:
    """Without a run there is nothing to report: code 2."""
    assert CliRunner().invoke(command_line(["report"]), ["report"]).exit_code == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--rates", "0"], "0 is not between"),
        (["--rates", "nan"], "nan is not between"),
        (["--workers", "x"], "'x' is no whole number"),
        (["--workers", "0"], "0 is not between"),
    ],
)
def test_sweep_refuses_bad_lists(options: list[str], why: str, tmp_path: Path) -> None:
    """Rates and workers that make no sense end with code 2 before anything is started."""
    command = command_line(["bench"])
    done = CliRunner().invoke(command, ["bench", "sweep", *options, "--runs", str(tmp_path)])
    assert done.exit_code == 2
    assert why in " ".join(done.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []
