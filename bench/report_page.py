"""Pieces of a report's page: one file, no script, no network; for a screen, a phone and paper. Pure.

Everything that comes out of a run is escaped here, at the last moment.
"""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

STYLE: Final = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:1rem;background:#fff;color:#1a1a1a;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .6rem}
h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid #ccc;padding-bottom:.2rem}
p{margin:.4rem 0 .8rem;max-width:75ch}
.lead{font-size:1.2rem;border-left:5px solid #0b4f9c;padding:.5rem .9rem;background:#f3f6fa;max-width:none}
.warn{border-left:5px solid #b3400e;padding:.4rem .9rem;background:#fdf4ef;max-width:none}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:1.2rem}
figure{margin:0;break-inside:avoid}
figcaption{font-weight:600;margin-bottom:.2rem}
svg{width:100%;height:auto;display:block}
svg text{font-size:12px;fill:#1a1a1a;font-family:inherit}
.axis{stroke:#444;stroke-width:1;fill:none}
.grid{stroke:#ddd;stroke-width:1}
.mark{stroke:#1a1a1a;stroke-width:1.5;stroke-dasharray:4 3}
.wide{overflow-x:auto;margin:.5rem 0 1rem}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding-bottom:.3rem}
th,td{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:left;vertical-align:top}
thead th,thead th.n{border-bottom:2px solid #666;vertical-align:bottom;white-space:normal}
.n{text-align:right;white-space:nowrap}
tr.here{background:#f3f6fa;font-weight:600}
.note{font-size:.88rem;color:#444}
code{overflow-wrap:anywhere}
@media (max-width:600px){body{padding:.7rem;font-size:15px}h1{font-size:1.3rem}.lead{font-size:1.05rem}
th,td{padding:.2rem .4rem}}
@media print{@page{margin:14mm}body{max-width:none;padding:0;font-size:10.5pt}h2{break-after:avoid}
.wide{overflow:visible}tr,figure{break-inside:avoid}.charts{grid-template-columns:1fr 1fr}
table{font-size:8.5pt}th,td{padding:.15rem .35rem}.n{white-space:normal}}
"""


class Number(NamedTuple):
    """A cell: the value as it is in the run, and how it is written."""

    value: float
    text: str


Cell = str | Number


def number(value: float, digits: int = 0, unit: str = "") -> Number:
    """Return a cell of so many digits."""
    return Number(value, f"{value:,.{digits}f}{unit}")


def page(title: str, body: Sequence[str]) -> str:
    """Return the whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def heading(text: str) -> str:
    """Return a section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; `kind`: lead, warn or note."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def figure(caption: str, svg: str) -> str:
    """Return a chart with its caption."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def charts(figures: Sequence[str]) -> str:
    """Return charts beside each other where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


def table(
    name: str, caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], *, here: int | None = None
) -> str:
    """Return a table; the first cell of a row is its heading.

    Args:
        name: its id.
        caption: above it.
        head: names of the columns.
        rows: of cells; a `Number` keeps its value in `data-value`, whole.
        here: the row that is meant.
    """
    numeric = [any(isinstance(row[i], Number) for row in rows) for i in range(len(head))]
    found = [
        f'<div class="wide"><table id="{escape(name)}"><caption>{escape(caption)}</caption><thead><tr>',
        *(
            f'<th scope="col"{_class(is_number)}>{escape(text)}</th>'
            for text, is_number in zip(head, numeric, strict=True)
        ),
        "</tr></thead><tbody>",
    ]
    for at, row in enumerate(rows):
        found.append('<tr class="here">' if at == here else "<tr>")
        found += [_cell(cell, "th" if i == 0 else "td") for i, cell in enumerate(row)]
        found.append("</tr>")
    return "".join([*found, "</tbody></table></div>"])


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _cell(cell: Cell, kind: str) -> str:
    scope = ' scope="row"' if kind == "th" else ""
    if isinstance(cell, Number):
        return f'<{kind}{scope} class="n" data-value="{cell.value!r}">{escape(cell.text)}</{kind}>'
    return f"<{kind}{scope}>{escape(cell)}</{kind}>"
