"""Requests that follow each other without waiting for answers, which come in the same order."""

import pytest

from domain.settings import Settings
from tests.support.gate import LIVEZ, Gate, open_gate
from tests.support.wire import chunked

ROUNDS = 6
NOTHING = LIVEZ.replace(b"/livez", b"/nothing")


def mixed(gate: Gate, number: int) -> list[tuple[bytes, int]]:
    """Return requests of every kind with their statuses; one new order among them."""
    return [
        (gate.order(f"b-{number}"), 202),
        (LIVEZ, 200),
        (gate.page(), 200),
        (gate.order(f"b-{number}"), 202),
        (NOTHING, 404),
        (gate.order(f"c-{number}", body=b"{}"), 400),
        (gate.page(), 200),
        (gate.order("ann"), 202),
    ]


@pytest.mark.parametrize("pipeline_max", [1, 3, 16, 1_024])
async def test_answers_come_in_the_order_of_their_requests(plain: Settings, lane: str, pipeline_max: int) -> None:
    """Hot and cold requests in one write, more of them than `pipeline_max`, are answered in order, a bad one last.

    There are exactly as many orders as there are keys.
    """
    async with open_gate(plain, lane, pipeline_max=pipeline_max) as gate:
        asked = [one for number in range(ROUNDS) for one in mixed(gate, number)]
        async with gate.wire() as wire:
            await wire.send(b"".join(request for request, _ in asked) + b"NONSENSE\r\n\r\n" + gate.order("eve"))
            said = [await wire.reply() for _ in asked]
            last = await wire.last_reply()
        assert [reply.status for reply in said] == [status for _, status in asked]
        assert (last.status, last.code) == (400, "INVALID")
        per_round = len(mixed(gate, 0))
        for number in range(ROUNDS):
            bought, livez, page, again = said[number * per_round :][:4]
            assert (bought.body, again.header("Idempotent-Replayed")) == (again.body, "true")
            assert bought.header("Idempotent-Replayed") is None
            assert livez.body == b'{"status":"ok"}'
            assert page.json["campaign_id"] == gate.sale.id
        assert len({reply.body for reply in said if reply.status == 202}) == ROUNDS + 1
        assert await gate.taken() == ROUNDS + 1
        await gate.assert_sound()


async def test_many_orders_of_one_connection(plain: Settings, lane: str) -> None:
    """More orders at once than a connection may have waiting are all answered, each with its own order."""
    async with open_gate(plain, lane, pipeline_max=4) as gate:
        async with gate.wire() as wire:
            await wire.send(b"".join(gate.order(f"b-{number}") for number in range(60)))
            said = await wire.replies(60)
            for number, reply in enumerate(said):
                again = await wire.ask(gate.order(f"b-{number}"))
                assert (reply.status, again.body) == (202, reply.body)
            await wire.finish()
        assert await gate.taken() == 60


async def test_pieces_that_end_within_requests(plain: Settings, lane: str) -> None:
    """A pipeline cut into pieces of 7 bytes is answered as a whole one."""
    async with open_gate(plain, lane) as gate:
        asked = [one for number in range(2) for one in mixed(gate, number)]
        whole = b"".join(request for request, _ in asked)
        async with gate.wire() as wire:
            await wire.send(*(whole[at : at + 7] for at in range(0, len(whole), 7)))
            assert [reply.status for reply in await wire.replies(len(asked))] == [status for _, status in asked]
            await wire.finish()
        assert await gate.taken() == 3


async def test_chunks_wait_for_their_turn(plain: Settings, lane: str) -> None:
    """A chunked order behind others is answered after them, as the connection's last."""
    async with open_gate(plain, lane) as gate:
        in_chunks = gate.head("cid", headers=(("Transfer-Encoding", "chunked"),)) + chunked([gate.body()])
        async with gate.wire() as wire:
            await wire.send(gate.order("ann") + gate.order("ben") + LIVEZ + in_chunks)
            said = [await wire.reply() for _ in range(3)]
            last = await wire.last_reply()
        assert [reply.status for reply in (*said, last)] == [202, 202, 200, 202]
        assert await gate.taken() == 3


async def test_nothing_is_taken_behind_a_last_request(plain: Settings, lane: str) -> None:
    """What stands behind a request with `Connection: close` is not executed."""
    async with open_gate(plain, lane) as gate:
        last = gate.order("ann", headers=(("Connection", "close"),))
        async with gate.wire() as wire:
            await wire.send(gate.order("ben") + last + gate.order("eve"))
            assert (await wire.reply()).status == 202
            assert (await wire.last_reply()).status == 202
        assert await gate.taken() == 2
