"""Asks again what came of requests whose outcome is not known: the same key until there is an answer that says it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from bench.crowd_http import BadAnswerError
from bench.load_http import read_answer, read_meaning
from bench.load_outcomes import Meaning, ResultClass, classify, is_unknown

ASKING_AT_ONCE: Final = 16
ANSWER_TIMEOUT_S: Final = 10.0
PAUSE_S: Final = 0.2
READ_BYTES: Final = 65_536


async def settle(
    host: str, port: int, numbers: Iterable[int], request: Callable[[int], bytes], *, timeout_s: float
) -> dict[int, Meaning]:
    """Return what requests came to, by number; those that could not be settled in time are left out.

    Args:
        host: of the buyer plane.
        port: of it.
        numbers: of the requests.
        request: makes the same request again.
        timeout_s: for all of them.
    """
    waiting, found = list(numbers), dict[int, Meaning]()

    async def ask() -> None:
        while waiting:
            number = waiting.pop()
            while number not in found:
                with contextlib.suppress(OSError, TimeoutError, BadAnswerError):
                    meaning = await _ask(host, port, request(number))
                    if _says_it(meaning):
                        found[number] = meaning
                        break
                await asyncio.sleep(PAUSE_S)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(ask() for _ in range(ASKING_AT_ONCE)))
    return found


def _says_it(meaning: Meaning) -> bool:
    """Tell whether an answer says what came of a request; 429 and 503 do not."""
    what = classify(meaning.status, meaning.code, replayed=meaning.replayed)
    return not (what is ResultClass.SHED or meaning.status == 429 or is_unknown(meaning.status, meaning.code))


async def _ask(host: str, port: int, request: bytes) -> Meaning:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(request)
            data = b""
            while (answer := read_answer(data)) is None:
                more = await reader.read(READ_BYTES)
                if not more:
                    raise BadAnswerError("the connection was closed instead of an answer")
                data += more
            return read_meaning(answer.status, data)
        finally:
            writer.close()
