"""The OpenAPI document as a whole, and real answers held against it."""

import json
from html.parser import HTMLParser
from typing import Any, cast

import jsonschema_rs
import pytest
from schemathesis.specs.openapi import definitions

from adapters.stock import Attempt, Snapshot, StockLine
from domain import outcomes
from domain.errors import BackendError, PoisonRecordError
from domain.outcomes import Outcome
from domain.settings import GatewaySettings
from gateway.answers import Answer, of_decision, problem
from gateway.calls import BuyerCalls, campaign_answer
from gateway.http import BuyerPlane
from gateway.openapi import docs_html, document, document_json
from gateway.order_status import OrderRow, Question, status_answer
from gateway.orders import decision_of
from gateway.view import make_view

ORDER = "c-1~" + "0" * 32
LIMITS = {"campaign": (20, 5), "user": (3, 2)}


async def nothing(*_args: Any) -> Any:
    """Stand in for what the routes never reach."""
    return {}


def assert_documented(answer: Answer, path: str, method: str) -> None:
    """Assert that an answer's status, content type, headers and body are as the document has them."""
    whole = document()
    response = whole["paths"][path][method]["responses"][str(answer.status)]
    schema = response["content"][answer.content_type]["schema"]
    jsonschema_rs.validate({**schema, "components": whole["components"]}, json.loads(answer.body))
    unnamed = {name for name, _ in answer.headers} - set(response.get("headers", {})) - {"Cache-Control", "Connection"}
    assert not unnamed
    if answer.status >= 400:
        assert f"`{json.loads(answer.body)['code']}`" in response["description"]


def test_document_is_openapi_3_1() -> None:
    """The document is valid by the specification's own schema, and JSON says the same as the dict."""
    whole = json.loads(document_json())
    assert whole == document()
    definitions.OPENAPI_31_VALIDATOR.validate(whole)
    operations = [operation for methods in whole["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_routes_and_paths_are_the_same() -> None:
    """Every route that the worker serves is a path of the document, and nothing else is."""
    plane = BuyerPlane(GatewaySettings(), cast("BuyerCalls", None), missing=nothing)
    served = {
        (route.resource.canonical, route.method.lower())
        for route in plane.application().router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert served == {(path, method) for path, methods in document()["paths"].items() for method in methods}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_documented(outcome: Outcome) -> None:
    """Whatever the script decides, the answer's status, headers, code and body are in the document."""
    assert_documented(of_decision(decision_of(outcome, 1_500), ORDER, LIMITS), "/v1/orders", "post")


@pytest.mark.parametrize(
    ("what", "headers"),
    [
        (outcomes.INVALID, ()),
        (outcomes.KEY_MISSING, ()),
        (outcomes.UNAUTHENTICATED, (("WWW-Authenticate", "Bearer"),)),
        (outcomes.NOT_FOUND, ()),
        (outcomes.TOO_LARGE, ()),
        (outcomes.BUSY, (("Retry-After", "1"),)),
        (outcomes.UNKNOWN, (("Retry-After", "1"),)),
    ],
)
def test_refusals_before_the_script_are_documented(what: outcomes.Problem, headers: Any) -> None:
    """What a worker refuses by itself is in the document too."""
    assert_documented(problem(what, "why", headers), "/v1/orders", "post")


@pytest.mark.parametrize("state", ["loaded", "open", "paused", "closed"])
def test_campaign_page_is_documented(state: str) -> None:
    """The page of a campaign has the documented shape in every state."""
    fields = {"kind": "sale", "state": state, "run_id": "r", "opens_ms": "1000", "closes_ms": "2000000"}
    fields |= dict.fromkeys(("admit_per_s", "admit_burst", "user_per_s", "user_burst"), "1")
    stock = {"box": StockLine(5, 5, 0, 10, 1, 2, 5_900), "bag": StockLine(0, 10, 0, 10, 1, 2, 0)}
    view = make_view("c-1", Snapshot(fields, stock, 1_500_000, b"", "0-0"), 0.0)
    assert_documented(campaign_answer(view, 0.5), "/v1/campaigns/{id}", "get")


def test_order_status_is_documented() -> None:
    """An order's status has the documented shape: from MySQL, from Redis, nobody's, another's, not to be told."""
    question = Question(ORDER, "c-1", "0" * 32, "ann", lambda _answer: None)
    row = OrderRow("ann", "box", 2, "confirmed", 1)
    mine = [Attempt("0" * 32, "f" * 16, "box", 2, 1, held=True)]
    away, poison = BackendError("away"), PoisonRecordError("unreadable")
    cases: list[tuple[Any, Any, int, str]] = [
        (row, mine, 200, "confirmed"),
        (row, away, 200, "confirmed"),
        (row, poison, 200, "confirmed"),
        (None, mine, 200, "accepted"),
        (row._replace(user_id="ben"), mine, 404, "NOT_FOUND"),
        (away, mine, 503, "UNKNOWN"),
        (None, [], 404, "NOT_FOUND"),
        (None, away, 503, "UNKNOWN"),
        (None, poison, 503, "UNKNOWN"),
        (away, [], 503, "UNKNOWN"),
    ]
    for found, attempts, status, told in cases:
        answer = status_answer(question, found, attempts)
        document_told = json.loads(answer.body)
        assert (answer.status, document_told.get("code", document_told["status"])) == (status, told)
        assert_documented(answer, "/v1/orders/{id}", "get")


class Page(HTMLParser):
    """Collects tags and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text.append(data)


def test_page_says_what_the_document_says() -> None:
    """The page names every path, code, header and shape, fits a phone, and its links lead somewhere."""
    page = Page()
    page.feed(docs_html().decode())
    text, whole = "".join(page.text), document()
    assert all(path in text for path in whole["paths"])
    assert all(name in text for name in whole["components"]["schemas"])
    assert all(code in text for code in whole["components"]["schemas"]["ProblemDocument"]["properties"]["code"]["enum"])
    for name in ("Idempotency-Key", "Idempotent-Replayed", "Location", "Retry-After", "RateLimit-Policy"):
        assert name in text
    assert ("meta", {"name": "viewport", "content": "width=device-width"}) in page.tags
    ids = {attrs.get("id") for _, attrs in page.tags}
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert all(link[1:] in ids if link.startswith("#") else link in whole["paths"] for link in links)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe"}
