"""The buyer plane's OpenAPI document as a page."""

import html
from functools import cache
from typing import Any, Final

import orjson

from gateway.openapi import document

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--ok:#187a3c;--no:#a33}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;font-size:1.1rem}code,h2{font-family:ui-monospace,monospace}
.method{display:inline-block;min-width:3.5rem;font-weight:700}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid var(--line);padding:.35rem .5rem;
text-align:left;vertical-align:top}td:first-child{white-space:nowrap}
pre{background:var(--soft);padding:.75rem;overflow:auto;border-radius:6px}
@media(prefers-color-scheme:dark){:root{--ok:#6c6;--no:#f88}}
.s2{color:var(--ok)}.s4,.s5{color:var(--no)}
"""


@cache
def docs_html() -> bytes:
    """Return the document as one self-contained page."""
    whole = document()
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(whole['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(whole['info']['title'])}</h1><p>{_marked(whole['info']['description'])}</p>",
        "<p>The same for programs: <a href=/openapi.json>/openapi.json</a></p>",
    ]
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    parts.append("<h2>Shapes</h2>")
    for name, schema in whole["components"]["schemas"].items():
        text = orjson.dumps(schema.get("properties", schema), option=orjson.OPT_INDENT_2).decode()
        parts.append(f"<h3 id={name}><code>{name}</code></h3><pre>{html.escape(text)}</pre>")
    return "".join(parts).encode()


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td class=s{status[0]}>{status}</td><td>{_marked(answer['description'])}"
        + "".join(f"<br><code>{name}</code>: {_marked(one['description'])}" for name, one in _headers_of(answer))
        + "</td></tr>"
        for status, answer in operation["responses"].items()
    )
    needs = [f"<code>{one['name']}</code>: {_marked(one['description'])}" for one in operation.get("parameters", [])]
    if operation.get("security"):
        needs.insert(0, "<code>Authorization: Bearer</code>: the buyer's token")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in body:
        name = body["$ref"].rpartition("/")[2]
        needs.append(f"a body of the shape <a href=#{name}><code>{name}</code></a>")
    listed = "".join(f"<li>{need}</li>" for need in needs)
    return (
        f"<h2><span class=method>{method.upper()}</span> {html.escape(path)}</h2><p>{_marked(operation['summary'])}</p>"
        + (f"<ul>{listed}</ul>" if listed else "")
        + f"<table>{rows}</table>"
    )


def _headers_of(answer: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(answer.get("headers", {}).items())


def _marked(text: str) -> str:
    """Escape, and set what stands in backticks as code."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))
