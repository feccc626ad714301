"""What a buyer of the Locust run does with an answer, and what is counted. Pure: clocks and chance are passed in."""

from collections import Counter
from typing import Final

import msgspec

from bench.load_messages import Aim
from bench.load_outcomes import Meaning, ResultClass, by_class, classify, is_unknown

RETRIES_MAX: Final = 5
"""How often a buyer who was told 429 or 503 BUSY comes back with the same key."""
UNKNOWN_TRIES_MAX: Final = 30
"""How often one who does not know what came of it asks again."""
RETRY_AFTER_MAX_S: Final = 5.0
"""No buyer waits longer, whatever Retry-After says."""
RETRY_JITTER_S: Final = 0.5
UNKNOWN_PAUSE_S: Final = 0.5
IMPATIENT_SHARE: Final = 0.1
"""Of those who were accepted: they ask again with the same key."""


class LocustJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `bench/locustfile.py` is told.

    Attributes:
        aims: what buyers come for, by turns.
        pages: what they look at before the opening, for each aim.
        key_file, audience: what tokens are signed with, and whom they are for.
        prefix: of the buyers' names and keys.
        counts_folder: each process keeps its counts in a file there.
        users, spawn_per_s, duration_s: see `bench.locust_shape.PeakPlan`; the web page may say otherwise.
    """

    aims: tuple[Aim, ...]
    pages: tuple[str, ...]
    key_file: str
    audience: str
    prefix: str
    counts_folder: str
    users: int
    spawn_per_s: float
    duration_s: float


class LocustCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What came of all requests of one process, or of several together.

    Attributes:
        aims: of each aim, result class → answers; a lost answer is `failed`.
        told: of each aim, buyers who were told that they were accepted, each once.
        won: of these, draws with a prize.
        unknown: buyers who at some time did not know what had come of their request.
        unsettled: of these, those who never learned it.
        looks: looks at a page before the opening.
    """

    aims: list[dict[str, int]]
    told: list[int]
    won: int
    unknown: int
    unsettled: int
    looks: int

    @property
    def classes(self) -> dict[str, int]:
        """All aims together."""
        found: Counter[str] = Counter()
        for one in self.aims:
            found.update(one)
        return by_class(found)


def add_up(parts: list[LocustCounts], aims: int) -> LocustCounts:
    """Return the counts of several processes together."""
    classes: list[Counter[str]] = [Counter() for _ in range(aims)]
    for part in parts:
        for number, one in enumerate(part.aims):
            classes[number].update(one)
    return LocustCounts(
        aims=[by_class(one) for one in classes],
        told=[sum(part.told[number] for part in parts) for number in range(aims)],
        won=sum(part.won for part in parts),
        unknown=sum(part.unknown for part in parts),
        unsettled=sum(part.unsettled for part in parts),
        looks=sum(part.looks for part in parts),
    )


def buyer_name(prefix: str, process: int, aim: int, number: int) -> str:
    """Return the user id, and the key, of a buyer: the numbered one of a process who wants this aim."""
    return f"{prefix}-{process}-{aim}-{number}"


class Purchase:
    """One buyer's purchase: the same request until it is known what came of it, or he gives up.

    Args:
        aim: the number of what he wants.
        chance: from [0, 1): whether he is an impatient one.
    """

    def __init__(self, aim: int, chance: float) -> None:
        self.aim = aim
        self.is_told = False
        self.has_won = False
        self.was_in_doubt = False
        self.is_in_doubt = False
        self.classes: Counter[str] = Counter()
        self._impatient = chance < IMPATIENT_SHARE
        self._tries = 0
        self._asking = False

    def ask(self) -> None:
        """Take note that the request goes out now."""
        self._asking = True

    def hear(self, answer: Meaning, *, retry_after_s: float, stopping: bool, chance: float) -> float | None:
        """Take an answer in; returns how many seconds to wait before asking again, or None: he is done.

        Args:
            answer: status 0 if there was none.
            retry_after_s: what the answer says.
            stopping: the run is ending; only who is in doubt still asks.
            chance: from [0, 1), so that those who were sent away together do not return together.
        """
        self._asking = False
        what = classify(answer.status, answer.code, replayed=answer.replayed)
        self.classes[what] += 1
        self._tries += 1
        if is_unknown(answer.status, answer.code):
            self.is_in_doubt = not self.is_told
            self.was_in_doubt |= self.is_in_doubt
            return UNKNOWN_PAUSE_S if self.is_in_doubt and self._tries < UNKNOWN_TRIES_MAX else None
        again = answer.status == 429 or what is ResultClass.SHED
        if again:
            tries_max = UNKNOWN_TRIES_MAX - 1 if self.is_in_doubt else 0 if stopping else RETRIES_MAX
            wait_s = min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S) + chance * RETRY_JITTER_S
            return wait_s if self._tries <= tries_max and not self.is_told else None
        self.is_in_doubt = False
        first = not self.is_told and what in {ResultClass.ACCEPTED, ResultClass.REPLAYED}
        if first:
            self.is_told, self.has_won = True, answer.won
        return 0.0 if first and self._impatient and not stopping else None

    def end(self) -> None:
        """Take note that nothing more is asked; who was interrupted while he waited for an answer is in doubt."""
        if self._asking and not self.is_told:
            self.was_in_doubt = self.is_in_doubt = True
        if self._asking:
            self.classes[ResultClass.FAILED] += 1
            self._asking = False


class Counting:
    """Adds purchases up."""

    def __init__(self, aims: int) -> None:
        self._classes: list[Counter[str]] = [Counter() for _ in range(aims)]
        self._told = [0] * aims
        self._won = self._unknown = self._unsettled = 0
        self.looks = 0

    def add(self, purchase: Purchase) -> None:
        """Count a purchase that has ended."""
        self._classes[purchase.aim].update(purchase.classes)
        self._told[purchase.aim] += purchase.is_told
        self._won += purchase.has_won
        self._unknown += purchase.was_in_doubt
        self._unsettled += purchase.is_in_doubt

    def counts(self) -> LocustCounts:
        """Return the counts so far."""
        return LocustCounts(
            aims=[by_class(one) for one in self._classes],
            told=list(self._told),
            won=self._won,
            unknown=self._unknown,
            unsettled=self._unsettled,
            looks=self.looks,
        )
