"""The buyer plane's OpenAPI 3.1 document, made from the types that decode the requests."""

from functools import cache
from typing import Any, Final

import msgspec
import orjson

from domain import outcomes
from domain.order_state import OrderStatus as Status
from domain.order_state import PaymentStatus
from domain.outcomes import Problem
from gateway.openapi_types import (
    CampaignPage,
    Health,
    OrderAccepted,
    OrderCancelled,
    OrderStatus,
    PaymentBegun,
    Points,
    PrizeDrawn,
    ProblemDocument,
)
from gateway.order_status import payment_told
from gateway.requests import DrawPrize, PlaceOrder
from lifecycle.callback import SIGNATURE_HEADER, Callback

VERSION: Final = "1"
ALL_PROBLEMS: Final[tuple[Problem, ...]] = tuple(
    value for value in vars(outcomes).values() if isinstance(value, Problem)
)


_TYPES: Final = (
    PlaceOrder,
    OrderAccepted,
    DrawPrize,
    PrizeDrawn,
    OrderStatus,
    PaymentBegun,
    OrderCancelled,
    Callback,
    Points,
    CampaignPage,
    Health,
    ProblemDocument,
)

_REF: Final = "#/components/schemas/{name}"

_HEADERS: Final[dict[str, str]] = {
    "Location": "Where the order's status is.",
    "Idempotent-Replayed": "`true`: this is the answer to an earlier request with the same key.",
    "Retry-After": "Seconds to wait before asking again.",
    "RateLimit": "What is left of the quota, and when it is refilled.",
    "RateLimit-Policy": "The quota that was used up.",
    "WWW-Authenticate": "`Bearer`, or `X-Signature` for the provider's callback.",
    "Allow": "The methods that are allowed here.",
}


@cache
def document() -> dict[str, Any]:
    """Return the document."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    for schema in schemas.values():
        schema["description"] = schema["description"].partition("\n\n")[0]
    schemas["ProblemDocument"]["properties"]["code"]["enum"] = sorted({problem.code for problem in ALL_PROBLEMS})
    schemas["OrderStatus"]["properties"]["status"]["enum"] = [status.value for status in Status]
    told = sorted({str(payment_told(status)) for status in PaymentStatus})
    for name in ("OrderPayment", "PaymentBegun"):
        schemas[name]["properties"]["status"]["enum"] = told
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flashgate: buyer plane",
            "version": VERSION,
            "description": "Every POST of a buyer needs an `Idempotency-Key`. After a lost answer, a 429, a 503 or "
            "`NOT_READY` send the same request with the same key: what it asks for is done once.",
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
                    **_problems(*_ENTRY_PROBLEMS, outcomes.KEY_REUSED),
                },
            }
        },
        "/v1/orders/{id}": {
            "get": {
                "operationId": "getOrder",
                "summary": "Where an order of one's own stands",
                "security": token,
                "parameters": [_order_id()],
                "responses": {
                    "200": _answer("The order's status", OrderStatus, "Retry-After"),
                    **_problems(outcomes.UNAUTHENTICATED, outcomes.NOT_FOUND, outcomes.BUSY, outcomes.UNKNOWN),
                },
            }
        },
        "/v1/draws": {
            "post": {
                "operationId": "drawPrize",
                "summary": "Draw in a lottery; what was won is in the answer",
                "security": token,
                "parameters": [_key_parameter()],
                "requestBody": {"required": True, "content": _json(DrawPrize)},
                "responses": {
                    "200": _answer("Drawn, and durable", PrizeDrawn, "Idempotent-Replayed"),
                    **_problems(*_ENTRY_PROBLEMS),
                },
            }
        },
        "/v1/redemptions": {
            "post": {
                "operationId": "redeemPoints",
                "summary": "Have goods for points; where it stands is told as of an order. It is `rejected`, with its "
                "points back, if they do not suffice after all",
                "security": token,
                "parameters": [_key_parameter()],
                "requestBody": {"required": True, "content": _json(PlaceOrder)},
                "responses": {
                    "202": _answer("Accepted, and durable", OrderAccepted, "Location", "Idempotent-Replayed"),
                    **_problems(*_ENTRY_PROBLEMS, outcomes.POINTS_SHORT, outcomes.KEY_REUSED),
                },
            }
        },
        **_life_paths(token),
        "/v1/points": {
            "get": {
                "operationId": "getPoints",
                "summary": "One's own points, and what they are made of",
                "security": token,
                "responses": {
                    "200": _answer("The account; a user without one has no points", Points),
                    **_problems(outcomes.UNAUTHENTICATED, outcomes.BUSY, outcomes.UNKNOWN),
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


def _life_paths(token: list[dict[str, list[str]]]) -> dict[str, Any]:
    """Return the paths of an order's life after the sale."""
    return {
        "/v1/orders/{id}/events": {
            "get": {
                "operationId": "orderEvents",
                "summary": "An order of one's own as Server-Sent Events: `event: status`, `id` its version, `data` as "
                "`GET /v1/orders/{id}` answers. First as it stands, then every state in turn",
                "security": token,
                "parameters": [_order_id(), _last_event_id()],
                "responses": {
                    "200": {
                        "description": "The stream; it ends when nothing can follow, or with the token",
                        "content": {"text/event-stream": {"schema": {"type": "string"}}},
                    },
                    "204": {"description": "Nothing can follow what `Last-Event-ID` names: do not come back"},
                    **_problems(
                        outcomes.UNAUTHENTICATED,
                        outcomes.NOT_FOUND,
                        outcomes.RATE_LIMITED,
                        outcomes.BUSY,
                        outcomes.UNKNOWN,
                    ),
                },
            }
        },
        "/v1/orders/{id}/payment": {
            "post": {
                "operationId": "payOrder",
                "summary": "Begin to pay an order; a payment that can still be made is answered instead of another",
                "security": token,
                "parameters": [_order_id(), _key_parameter()],
                "requestBody": _nothing(),
                "responses": {
                    "202": _answer("The payment, and where to pay", PaymentBegun),
                    **_problems(*_CHANGE_PROBLEMS, outcomes.LIMIT_REACHED),
                },
            }
        },
        "/v1/orders/{id}/cancel": {
            "post": {
                "operationId": "cancelOrder",
                "summary": "Cancel an order that is not paid",
                "security": token,
                "parameters": [_order_id(), _key_parameter()],
                "requestBody": _nothing(),
                "responses": {"200": _answer("Cancelled", OrderCancelled), **_problems(*_CHANGE_PROBLEMS)},
            }
        },
        "/v1/webhooks/payment": {
            "post": {
                "operationId": "paymentCallback",
                "summary": "For the payment provider alone: how a payment stands",
                "parameters": [_signature()],
                "requestBody": {"required": True, "content": _json(Callback)},
                "responses": {
                    "204": {"description": "Taken in, now or before"},
                    **_problems(
                        outcomes.INVALID,
                        outcomes.UNSIGNED,
                        outcomes.NOT_FOUND,
                        outcomes.TOO_LARGE,
                        outcomes.BUSY,
                        outcomes.UNKNOWN,
                    ),
                },
            }
        },
    }


_ENTRY_PROBLEMS: Final = (
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
    outcomes.RATE_LIMITED,
    outcomes.BUSY,
    outcomes.UNKNOWN,
)
"""Of every call that takes something of a campaign's."""

_CHANGE_PROBLEMS: Final = (
    outcomes.INVALID,
    outcomes.KEY_MISSING,
    outcomes.UNAUTHENTICATED,
    outcomes.NOT_FOUND,
    outcomes.NOT_READY,
    outcomes.STATE,
    outcomes.TOO_LARGE,
    outcomes.BUSY,
    outcomes.UNKNOWN,
)


def _health(operation: str, summary: str, *statuses: str) -> dict[str, Any]:
    answers = {status: _answer("ready" if status == "200" else "something is missing", Health) for status in statuses}
    return {"operationId": operation, "summary": summary, "responses": answers}


def _key_parameter() -> dict[str, Any]:
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "A new string for each thing that is wanted, the same one for each repeat.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    }


def _order_id() -> dict[str, Any]:
    return _id_parameter("The order's id.", {"type": "string"})


def _last_event_id() -> dict[str, Any]:
    return {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "The version that was told last: only what came after it is told.",
        "schema": {"type": "string"},
    }


def _signature() -> dict[str, Any]:
    return {
        "name": SIGNATURE_HEADER,
        "in": "header",
        "required": True,
        "description": "`t=<unix seconds>,v1=<hex>`: HMAC-SHA256 of `<t>.<body>`.",
        "schema": {"type": "string"},
    }


def _nothing() -> dict[str, Any]:
    """Return the body of a call that needs none."""
    return {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}}


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
            **_with_headers(*(("Retry-After",) if outcomes.NOT_READY in same else headers.get(status, ()))),
        }
        for status, same in sorted(by_status.items())
    }


@cache
def document_json() -> bytes:
    """Return the document as JSON."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2)
