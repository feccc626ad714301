"""Outbound review on the ops plane: what waits, and decisions about it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import orjson
from aiohttp import web

from domain import outcomes
from domain.errors import BackendError, OperationRefusedError, OutcomeUnknownError
from domain.order_state import ReviewStatus
from gateway.answers import BODY_LATE, BUSY_NOW, UNKNOWN_NOW, Answer, problem
from gateway.bound import Bound
from gateway.http import as_response
from warehouse.outbound import NoSuchOrderError, OutboundDesk
from warehouse.review_rules import LIST_MAX, WHY, Deed, Place, parse_place, place_text, wrong_words

INFLIGHT_MAX: Final = 32
"""Calls at a time; past it 503 BUSY."""
BODY_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 20.0
"""How long a decision may wait for locks and for the warehouse before its outcome counts as unknown."""
LIMIT_DEFAULT: Final = 100

_CAMPAIGN_ID: Final = re.compile(r"[a-z0-9-]{1,40}")
_NUMBER: Final = re.compile(r"[0-9]{1,6}")
_NAMES: Final = frozenset({"status", "campaign_id", "limit", "after"})


class DecisionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a decision."""

    who: str
    """Who decides, at most 64 characters."""
    why: str = ""
    """What for, at most 255 characters; empty: that it was decided so is all that is said."""


class ListQuery(msgspec.Struct, frozen=True):
    """Which reviews are asked for."""

    status: ReviewStatus = ReviewStatus.WAITING
    campaign_id: str = ""
    limit: int = LIMIT_DEFAULT
    after: Place | None = None


_body: Final = msgspec.json.Decoder(DecisionBody)


def read_query(given: "list[tuple[str, str]]") -> ListQuery:
    """Read the query of a list.

    Raises:
        ValueError: the message names what is wrong.
    """
    names = [name for name, _ in given]
    for name in names:
        if name not in _NAMES:
            raise ValueError(f"{name[:40]!r} is nothing that can be asked for; {', '.join(sorted(_NAMES))} are")
        if names.count(name) > 1:
            raise ValueError(f"{name}: given twice")
    values = dict(given)
    status = values.get("status", ReviewStatus.WAITING)
    if status not in set(ReviewStatus):
        raise ValueError(f"status: one of {', '.join(ReviewStatus)}")
    campaign_id = values.get("campaign_id", "")
    if "campaign_id" in values and not _CAMPAIGN_ID.fullmatch(campaign_id):
        raise ValueError("campaign_id: 1 to 40 small letters, digits and dashes")
    limit = values.get("limit", str(LIMIT_DEFAULT))
    if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= LIST_MAX:
        raise ValueError(f"limit: a number from 1 to {LIST_MAX}")
    after = parse_place(values["after"]) if "after" in values else None
    if after is None and "after" in values:
        raise ValueError("after: what the page before gave as `next`")
    return ListQuery(ReviewStatus(status), campaign_id, int(limit), after)


class OutboundCalls:
    """The calls about outbound review.

    Args:
        desk: where decisions are made.
    """

    def __init__(self, desk: OutboundDesk) -> None:
        self._desk = desk
        self._bound = Bound(INFLIGHT_MAX)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, for the application of the ops plane."""
        return [
            web.get("/ops/outbound", self.find, allow_head=False),
            *[web.post(f"/ops/outbound/{{order_id}}/{deed}", self._call_of(deed)) for deed in Deed],
        ]

    async def find(self, request: web.Request) -> web.Response:
        """`GET /ops/outbound`: reviews of one status, those that have waited longest first, page by page."""
        try:
            asked = read_query(list(request.query.items()))
        except ValueError as error:
            return as_response(problem(outcomes.INVALID, str(error)))

        async def work() -> Answer:
            found = await self._desk.find(
                asked.status, campaign_id=asked.campaign_id, after=asked.after, limit=asked.limit
            )
            more = place_text(found[-1].place) if len(found) == asked.limit else None
            return Answer(200, orjson.dumps({"reviews": [one.facts() for one in found], "next": more}))

        return as_response(await self._answer(work))

    def _call_of(self, deed: Deed) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def call(request: web.Request) -> web.Response:
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    raw = await request.read()
            except (TimeoutError, ConnectionError):
                return as_response(BODY_LATE)
            try:
                said = _body.decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                return as_response(problem(outcomes.INVALID, f"the body must be a decision: {error}"))
            wrong = wrong_words(said.who, said.why)
            if wrong:
                return as_response(problem(outcomes.INVALID, wrong))
            return as_response(await self._decide(deed, request.match_info["order_id"], said))

        return call

    async def _decide(self, deed: Deed, order_id: str, said: DecisionBody) -> Answer:
        async def work() -> Answer:
            (decided,) = await self._desk.decide(deed, [order_id], said.who, said.why or WHY[deed])
            return Answer(200, orjson.dumps(decided._asdict()))

        return await self._answer(work)

    async def _answer(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer of some work, or the problem that it ended in."""
        with self._bound.place() as free:
            if not free:
                return BUSY_NOW
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await work()
            except NoSuchOrderError as error:
                return problem(outcomes.NOT_FOUND, str(error))
            except OperationRefusedError as error:
                return problem(outcomes.STATE, str(error))
            except (OutcomeUnknownError, TimeoutError):
                return UNKNOWN_NOW
            except BackendError:
                return BUSY_NOW
