"""The buyer plane's OpenAPI 3.1 document and its page, made from the types that decode the requests."""

import html
from functools import cache
from typing import Any, Final, Literal

import msgspec
import orjson

from domain import outcomes
from domain.campaign import CampaignId, SkuId, SkuState
from domain.outcomes import Problem
from gateway.requests import PlaceOrder

VERSION: Final = "1"
ALL_PROBLEMS: Final[tuple[Problem, ...]] = tuple(
    value for value in vars(outcomes).values() if isinstance(value, Problem)
)


class OrderAccepted(msgspec.Struct):
    """The order holds stock and is durable."""

    order_id: str
    status: Literal["accepted"]


class OrderStatus(msgspec.Struct):
    """Where an order stands."""

    order_id: str
    status: str
    campaign_id: CampaignId
    sku_id: SkuId
    quantity: int
    version: int


class SkuView(msgspec.Struct):
    """A SKU as buyers see it."""

    sku_id: SkuId
    state: SkuState
    price_cents: int
    per_user: int


class CampaignPage(msgspec.Struct):
    """A campaign as buyers see it; times are RFC 3339, UTC."""

    campaign_id: CampaignId
    kind: Literal["sale", "lottery", "redemption"]
    state: Literal["loaded", "open", "paused", "closed"]
    opens_at: str
    closes_at: str
    server_time: str
    skus: list[SkuView]


class Health(msgspec.Struct):
    """Whether the worker can serve, and what is missing."""

    status: Literal["ok", "unavailable"]
    missing: dict[str, str] = {}


class ProblemDocument(msgspec.Struct):
    """RFC 9457; `code` is stable, the other words are not."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""


_TYPES: Final = (PlaceOrder, OrderAccepted, OrderStatus, CampaignPage, Health, ProblemDocument)

_REF: Final = "#/components/schemas/{name}"

_HEADERS: Final[dict[str, str]] = {
    "Location": "Where the order's status is.",
    "Idempotent-Replayed": "`true`: this is the answer to an earlier request with the same key.",
    "Retry-After": "Seconds to wait before asking again.",
    "RateLimit": "What is left of the quota, and when it is refilled.",
    "RateLimit-Policy": "The quota that was used up.",
    "WWW-Authenticate": "`Bearer`.",
    "Allow": "The methods that are allowed here.",
}


@cache
def document() -> dict[str, Any]:
    """Return the document."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    schemas["ProblemDocument"]["properties"]["code"]["enum"] = sorted({problem.code for problem in ALL_PROBLEMS})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flashgate: buyer plane",
            "version": VERSION,
            "description": "Every POST needs an `Idempotency-Key`. After a lost answer, a 429 or a 503 send the same "
            "request with the same key: the order is made once, and the answer is the first one.",
        },
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _paths() -> dict[str, Any]:
    token: list[dict[str, list[str]]] = [{"token": []}]
    return {
        "/v1/orders": {
            "post": {
                "operationId": "placeOrder",
                "summary": "Place an order",
                "security": token,
                "parameters": [_key_parameter()],
                "requestBody": {"required": True, "content": _json(PlaceOrder)},
                "responses": {
                    "202": _answer("Accepted, and durable", OrderAccepted, "Location", "Idempotent-Replayed"),
                    **_problems(
                        outcomes.INVALID,
                        outcomes.KEY_MISSING,
                        outcomes.UNAUTHENTICATED,
                        outcomes.NOT_STARTED,
                        outcomes.ENDED,
                        outcomes.PAUSED,
                        outcomes.NOT_FOUND,
                        outcomes.SOLD_OUT,
                        outcomes.LIMIT_REACHED,
                        outcomes.TOO_LARGE,
                        outcomes.KEY_REUSED,
                        outcomes.RATE_LIMITED,
                        outcomes.BUSY,
                        outcomes.UNKNOWN,
                    ),
                },
            }
        },
        "/v1/orders/{id}": {
            "get": {
                "operationId": "getOrder",
                "summary": "Where an order of one's own stands",
                "security": token,
                "parameters": [_id_parameter("The order's id.", {"type": "string"})],
                "responses": {
                    "200": _answer("The order's status", OrderStatus, "Retry-After"),
                    **_problems(outcomes.UNAUTHENTICATED, outcomes.NOT_FOUND, outcomes.UNKNOWN),
                },
            }
        },
        "/v1/campaigns/{id}": {
            "get": {
                "operationId": "getCampaign",
                "summary": "A campaign's window and what is on sale",
                "parameters": [_id_parameter("The campaign's id.", {"type": "string"})],
                "responses": {
                    "200": _answer("The campaign", CampaignPage),
                    **_problems(outcomes.NOT_FOUND, outcomes.BUSY),
                },
            }
        },
        "/livez": {"get": _health("livez", "Whether the process answers; touches nothing else", "200")},
        "/readyz": {"get": _health("readyz", "Whether orders can be served, and what is missing", "200", "503")},
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This document",
                "responses": {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {}}}}},
            }
        },
        "/docs": {
            "get": {
                "operationId": "docs",
                "summary": "This document as a page",
                "responses": {"200": {"description": "HTML", "content": {"text/html": {"schema": {"type": "string"}}}}},
            }
        },
    }


def _health(operation: str, summary: str, *statuses: str) -> dict[str, Any]:
    answers = {status: _answer("ready" if status == "200" else "something is missing", Health) for status in statuses}
    return {"operationId": operation, "summary": summary, "responses": answers}


def _key_parameter() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "A new string for each purchase, the same one for each repeat of it.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    }


def _id_parameter(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": "id", "in": "path", "required": True, "description": description, "schema": schema}


def _json(kind: type[msgspec.Struct], content_type: str = "application/json") -> dict[str, Any]:
    return {content_type: {"schema": {"$ref": _REF.format(name=kind.__name__)}}}


def _answer(description: str, kind: type[msgspec.Struct], *headers: str) -> dict[str, Any]:
    return {"description": description, "content": _json(kind), **_with_headers(*headers)}


def _with_headers(*names: str) -> dict[str, Any]:
    if not names:
        return {}
    return {"headers": {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in names}}


def _problems(*problems: Problem) -> dict[str, Any]:
    """Return the responses of problems, those of one status together."""
    by_status: dict[int, list[Problem]] = {}
    for problem in problems:
        by_status.setdefault(problem.status, []).append(problem)
    headers = {429: ("Retry-After", "RateLimit", "RateLimit-Policy"), 503: ("Retry-After",), 401: ("WWW-Authenticate",)}
    return {
        str(status): {
            "description": "; ".join(f"`{one.code}`: {one.title}" for one in same),
            "content": _json(ProblemDocument, "application/problem+json"),
            **_with_headers(*headers.get(status, ())),
        }
        for status, same in sorted(by_status.items())
    }


@cache
def document_json() -> bytes:
    """Return the document as JSON."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2)


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
    if "requestBody" in operation:
        needs.append("a body of the shape <a href=#PlaceOrder><code>PlaceOrder</code></a>")
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
