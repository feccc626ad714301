"""Redemptions in both lanes: in the order of their requests with all others, and told once the worker has answered."""

from collections.abc import AsyncIterator, Sequence

import pytest_asyncio

from domain.settings import Settings
from tests.support.gate import LIVEZ, STOCK, Gate, open_gate
from tests.support.redeeming import PRICE, replace_look
from tests.support.shop import SKU

GOODS = f'[[sku]]\nid = "{SKU}"\nstock = {STOCK}\npoints_price = {PRICE}\nper_user = 2\n'


@pytest_asyncio.fixture
async def gate(plain: Settings, lane: str) -> AsyncIterator[Gate]:
    """Return a worker with a redemption campaign; everyone but `eve` and `poor` has the points for one unit."""
    campaign = {"stock": [], "head": 'kind = "redemption"', "more": GOODS}
    async with open_gate(plain, lane, campaign=campaign, check_timeout_s=5.0) as made:

        async def balances(users: Sequence[str]) -> dict[str, int]:
            return {user: PRICE - (user == "poor") for user in users if user != "eve"}

        replace_look(made.worker, "points", balances)
        yield made


def redemption(gate: Gate, user: str, key: str = "k", body: bytes | None = None) -> bytes:
    """Return a redemption, whole."""
    return gate.order(user, key, body).replace(b"/v1/orders", b"/v1/redemptions", 1)


async def test_answers_come_in_the_order_of_their_requests(gate: Gate) -> None:
    """Accepted, replayed, short of points, without an account, no redemption: each answer stands where it was asked."""
    asked = [
        (redemption(gate, "ann"), 202, "ACCEPTED"),
        (LIVEZ, 200, ""),
        (redemption(gate, "poor"), 409, "POINTS_SHORT"),
        (redemption(gate, "ann"), 202, "REPLAYED"),
        (gate.page(), 200, ""),
        (redemption(gate, "eve"), 409, "POINTS_SHORT"),
        (redemption(gate, "ann", body=gate.body(2)), 422, "KEY_REUSED"),
        (redemption(gate, "ben", body=b"{}"), 400, "INVALID"),
        (gate.order("ben"), 400, "INVALID"),
        (redemption(gate, "ben"), 202, "ACCEPTED"),
    ]
    async with gate.wire() as wire:
        await wire.send(b"".join(request for request, _, _ in asked))
        said = await wire.replies(len(asked))
    assert [reply.status for reply in said] == [status for _, status, _ in asked]
    assert [reply.code for reply in said if reply.status >= 400] == [code for _, status, code in asked if status >= 400]
    replayed = [code == "REPLAYED" for _, status, code in asked if status == 202]
    accepted = [reply for reply in said if reply.status == 202]
    assert [reply.header("Idempotent-Replayed") == "true" for reply in accepted] == replayed
    assert [reply.header("Location") for reply in accepted] == [
        f"/v1/orders/{reply.json['order_id']}" for reply in accepted
    ]
    assert (accepted[0].body, await gate.taken()) == (accepted[1].body, 2)


async def test_a_worker_that_stops_answers_what_it_checks(gate: Gate) -> None:
    """A redemption whose checks are under way when the worker is told to stop is decided and answered."""
    desk = gate.worker.redemptions
    look = desk.points.look

    async def stopping(users: Sequence[str]) -> object:
        gate.worker.door.draining = True
        return await look(users)

    replace_look(gate.worker, "points", stopping)
    async with gate.wire() as wire:
        await wire.send(redemption(gate, "ann"))
        reply = await wire.reply()
        assert (reply.status, await gate.taken(), desk.checking) == (202, 1, 0)
    await gate.stop()
