"""The OpenAPI document as a whole, and real answers held against it."""

import json
from html.parser import HTMLParser
from typing import Any, cast

import jsonschema_rs
import pytest
from schemathesis.specs.openapi import definitions

from adapters.points import LedgerRow, Statement
from adapters.stock import Attempt, CampaignGate, Snapshot, StockLine
from domain import outcomes
from domain.campaign import CampaignState
from domain.errors import BackendError, PoisonRecordError
from domain.lottery import Prize
from domain.order_state import OrderStatus, PaymentStatus
from domain.outcomes import DrawOutcome, Outcome
from domain.points import LedgerKind
from domain.settings import GatewaySettings
from gateway.answers import BUSY_NOW, Answer, of_decision, problem
from gateway.calls import BuyerCalls, campaign_answer
from gateway.docs_page import docs_html
from gateway.draws import drawn
from gateway.event_connection import EVENT_STREAM
from gateway.http import BuyerPlane
from gateway.life_calls import LifeCalls, cancelled, not_possible, payment_answer
from gateway.openapi import document, document_json
from gateway.order_status import OrderPayment, OrderRow, Question, find_out, status_answer
from gateway.order_stream import event_of
from gateway.orders import decision_of
from gateway.points import NOT_TOLD, PointsDesk, points_answer
from gateway.redemption_rules import SILENT, Told, judge, refuse
from gateway.view import make_view
from lifecycle.payment_rows import Payment, Refusal

ORDER = "c-1~" + "0" * 32
CANCEL, PAYMENT, EVENTS = (f"/v1/orders/{{id}}/{call}" for call in ("cancel", "payment", "events"))
LIMITS = {"campaign": (20, 5), "user": (3, 2)}


async def nothing(*_args: Any) -> Any:
    """Stand in for what the routes never reach."""
    return {}


def assert_documented(answer: Answer, path: str, method: str) -> None:
    """Assert that an answer's status, content type, headers and body are as the document has them."""
    whole = document()
    response = whole["paths"][path][method]["responses"][str(answer.status)]
    if answer.status == 204:
        assert (answer.body, response.get("content")) == (b"", None)
        return
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
    calls, life, points = cast("BuyerCalls", None), cast("LifeCalls", None), cast("PointsDesk", None)
    plane = BuyerPlane(GatewaySettings(), calls, life, points, missing=nothing)
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


@pytest.mark.parametrize("state", ["loaded", "open"])
def test_page_of_a_redemption_is_documented(state: str) -> None:
    """The page of a redemption has the documented shape; its prices are in points, and none is in cents."""
    fields = {"kind": "redemption", "state": state, "run_id": "r", "opens_ms": "1000", "closes_ms": "2000000"}
    fields |= dict.fromkeys(("admit_per_s", "admit_burst", "user_per_s", "user_burst"), "1")
    view = make_view("c-1", Snapshot(fields, {"box": StockLine(5, 5, 0, 10, 1, 2, 300)}, 1_500_000, b"", "0-0"), 0.0)
    answer = campaign_answer(view, 0.5)
    assert_documented(answer, "/v1/campaigns/{id}", "get")
    (sku,) = json.loads(answer.body)["skus"]
    assert (sku["points_price"], "price_cents" in sku) == (300, False)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_of_a_redemption_is_documented(outcome: Outcome) -> None:
    """Whatever the script decides about a redemption, the answer is in the document."""
    assert_documented(of_decision(decision_of(outcome, 1_500), ORDER, LIMITS), "/v1/redemptions", "post")


@pytest.mark.parametrize("gate", [SILENT, None, *(CampaignGate(state, 0, 9, 5) for state in CampaignState)])
@pytest.mark.parametrize("remaining", [None, 0, 1])
@pytest.mark.parametrize("balance", [SILENT, None, 299, 300])
def test_what_checks_refuse_is_documented(gate: Any, remaining: int | None, balance: Any) -> None:
    """Whatever the checks of a redemption come to, the refusal is in the document."""
    told = Told(gate, None if remaining is None else StockLine(remaining, 0, 0, remaining, 1, 1, 300), balance)
    refusal = refuse(judge(told, 1), told, 1)
    assert (refusal is None) == (remaining == 1 and balance == 300 and gate == CampaignGate("open", 0, 9, 5))
    if refusal is not None:
        assert_documented(refusal.answer, "/v1/redemptions", "post")


@pytest.mark.parametrize("outcome", list(DrawOutcome))
def test_every_outcome_of_a_draw_is_documented(outcome: DrawOutcome) -> None:
    """Whatever the script decides about a draw, the answer's status, headers, code and body are in the document."""
    if outcome > 0:
        for prize in (None, Prize("gold", 1, 50, "0" * 16)):
            answer = drawn(ORDER, prize, 1, 2, "0" * 40, replayed=outcome is DrawOutcome.REPLAYED)
            assert_documented(answer, "/v1/draws", "post")
    else:
        assert_documented(of_decision(decision_of(Outcome(outcome), 1_500), "", LIMITS), "/v1/draws", "post")


@pytest.mark.parametrize("state", ["loaded", "open", "closed"])
def test_page_of_a_lottery_is_documented(state: str) -> None:
    """The page of a lottery has the documented shape; its seed is told once it is closed and that is in Kafka."""
    fields = {"kind": "lottery", "state": state, "run_id": "r", "opens_ms": "1000", "closes_ms": "2000000"}
    fields |= dict.fromkeys(("admit_per_s", "admit_burst", "user_per_s", "user_burst"), "1")
    fields |= {"prizes": '[["gold",1,50,"00"]]', "no_prize_weight": "5", "draws_per_user": "1", "log_end_id": "7-0"}
    fields |= {"seed": "00" * 32, "commitment": "11" * 32}
    for checkpoint in ("6-9", "7-0"):
        snapshot = Snapshot(fields, {"gold": StockLine(5, 5, 0, 10, 1, 2, 0)}, 1_500_000, b"", checkpoint)
        answer = campaign_answer(make_view("c-1", snapshot, 0.0), 0.5)
        assert_documented(answer, "/v1/campaigns/{id}", "get")
        is_told = state == "closed" and checkpoint == "7-0"
        assert json.loads(answer.body)["lottery"]["seed"] == ("00" * 32 if is_told else None)


def test_order_status_is_documented() -> None:
    """An order's status has the documented shape: from MySQL, from Redis, nobody's, another's, not to be told."""
    question = Question(ORDER, "c-1", "0" * 32, "ann", lambda _found: None)
    row = OrderRow("ann", "box", 2, OrderStatus.CONFIRMED, 1, 1_700_000_000_000)
    mine = [Attempt("0" * 32, "f" * 16, "box", 2, 1, held=True)]
    away, poison = BackendError("away"), PoisonRecordError("unreadable")
    cases: list[tuple[Any, Any, int, str]] = [
        (row, [], 200, "confirmed"),
        (None, mine, 200, "accepted"),
        (row._replace(user_id="ben"), mine, 404, "NOT_FOUND"),
        (None, [], 404, "NOT_FOUND"),
        (None, away, 503, "UNKNOWN"),
        (None, poison, 503, "UNKNOWN"),
    ]
    for known, attempts, status, told in cases:
        found = find_out(question, known, attempts)
        answer = found if isinstance(found, Answer) else status_answer(ORDER, found)
        document_told = json.loads(answer.body)
        assert (answer.status, document_told.get("code", document_told["status"])) == (status, told)
        assert_documented(answer, "/v1/orders/{id}", "get")


@pytest.mark.parametrize("status", list(OrderStatus))
@pytest.mark.parametrize("payment", [None, *PaymentStatus])
def test_every_state_is_documented(status: OrderStatus, payment: PaymentStatus | None) -> None:
    """Whatever an order and its payment have come to, the answer is as documented, the event's data the same bytes."""
    paid = None if payment is None else OrderPayment("p-1", payment, 1)
    row = OrderRow("ann", "box", 1, status, 3, 1_700_000_000_000, paid)
    answer = status_answer(ORDER, row)
    assert_documented(answer, "/v1/orders/{id}", "get")
    assert (json.loads(answer.body)["pay_by"] is not None) == (status is OrderStatus.CONFIRMED)
    assert event_of(ORDER, row) == b"event: status\nid: 3\ndata: " + answer.body + b"\n\n"


@pytest.mark.parametrize("status", list(PaymentStatus))
def test_payments_are_documented(status: PaymentStatus) -> None:
    """Wherever a payment stands, the buyer is told so as documented; what is unknown to us is pending to him."""
    answer = payment_answer(Payment("p-1", ORDER, 1, 5_900, status, "https://pay.example/p-1", 0, 0))
    assert answer is not None
    assert_documented(answer, PAYMENT, "post")
    body = json.loads(answer.body)
    if status is PaymentStatus.FAILED:
        assert (answer.status, body["code"]) == (409, "STATE")
    else:
        pending = {PaymentStatus.CREATING, PaymentStatus.UNKNOWN, PaymentStatus.HELD}
        told = {PaymentStatus.VOID: "failed"}
        assert (answer.status, body["status"]) == (
            202,
            "pending" if status in pending else told.get(status, status.value),
        )


def test_refused_payments_and_cancels_are_documented() -> None:
    """What is answered where an order cannot be paid or cancelled is as documented."""
    too_many = payment_answer(Refusal.TOO_MANY)
    assert too_many is not None
    assert json.loads(too_many.body)["code"] == "LIMIT_REACHED"
    assert_documented(too_many, PAYMENT, "post")
    assert payment_answer(Refusal.STATE) is None
    for path in (PAYMENT, CANCEL):
        for status in OrderStatus:
            assert_documented(not_possible(status), path, "post")
        for what in (outcomes.INVALID, outcomes.KEY_MISSING, outcomes.NOT_FOUND, outcomes.TOO_LARGE):
            assert_documented(problem(what, "why"), path, "post")
        for what in (outcomes.NOT_READY, outcomes.BUSY, outcomes.UNKNOWN):
            assert_documented(problem(what, "why", (("Retry-After", "1"),)), path, "post")
    assert_documented(cancelled(ORDER), CANCEL, "post")


def test_callbacks_and_streams_are_documented() -> None:
    """What the provider is answered, and how a stream begins or does not, is as documented."""
    why = (("WWW-Authenticate", "X-Signature"),)
    assert_documented(problem(outcomes.UNSIGNED, "stale", why), "/v1/webhooks/payment", "post")
    for path, method in (("/v1/webhooks/payment", "post"), (EVENTS, "get")):
        assert_documented(Answer(204, b""), path, method)
        assert_documented(problem(outcomes.NOT_FOUND), path, method)
        for what in (outcomes.BUSY, outcomes.UNKNOWN):
            assert_documented(problem(what, "why", (("Retry-After", "1"),)), path, method)
    assert_documented(problem(outcomes.RATE_LIMITED, "why", (("Retry-After", "5"),)), EVENTS, "get")
    stream = document()["paths"][EVENTS]["get"]["responses"]["200"]
    assert list(stream["content"]) == [EVENT_STREAM]


def test_points_are_documented() -> None:
    """An account has the documented shape, whatever moved it; without one there are no points, and that is said so."""
    rows = [LedgerRow("c-1~" + "0" * 32, kind, -5, 1_700_000_000_000, "a note") for kind in LedgerKind]
    told = points_answer(Statement(7, rows * 25))
    assert_documented(told, "/v1/points", "get")
    assert json.loads(told.body)["ledger"][0] == {
        "ref_id": rows[0].ref_id,
        "kind": "grant",
        "delta": -5,
        "at": "2023-11-14T22:13:20.000Z",
    }
    nobody = points_answer(None)
    assert_documented(nobody, "/v1/points", "get")
    assert json.loads(nobody.body) == {"balance": 0, "ledger": []}
    for answer in (NOT_TOLD, BUSY_NOW, problem(outcomes.UNAUTHENTICATED, "why", (("WWW-Authenticate", "Bearer"),))):
        assert_documented(answer, "/v1/points", "get")


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
