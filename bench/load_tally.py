"""What a load process counts of its answers. Without I/O."""

from collections import Counter

from bench.load_outcomes import Meaning, ResultClass, by_class, classify, is_unknown


class Tally:
    """Counts answers by HTTP status, by aim and by result class; a request's aim is its number modulo their number."""

    def __init__(self, aims: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.answered = 0
        self.won = 0
        self.unknown: list[int] = []
        """Numbers of requests whose outcome is not known."""
        self._aims: list[Counter[str]] = [Counter() for _ in range(aims)]
        self._settled: list[Counter[str]] = [Counter() for _ in range(aims)]

    def answer(self, number: int, meaning: Meaning) -> None:
        """Count an answer."""
        self.answered += 1
        self.statuses[meaning.status] += 1
        what = classify(meaning.status, meaning.code, replayed=meaning.replayed)
        self._aims[number % len(self._aims)][what] += 1
        self.won += meaning.won and what is ResultClass.ACCEPTED
        if what is ResultClass.FAILED and is_unknown(meaning.status, meaning.code):
            self.unknown.append(number)

    def lose(self, number: int) -> None:
        """Count a request that got no answer."""
        self._aims[number % len(self._aims)][ResultClass.FAILED] += 1
        self.unknown.append(number)

    def settle(self, number: int, meaning: Meaning) -> None:
        """Count what a request whose outcome was not known came to; a replay is news to its buyer, too."""
        what = classify(meaning.status, meaning.code, replayed=False)
        self._settled[number % len(self._settled)][what] += 1
        self.won += meaning.won

    def classes(self) -> dict[str, int]:
        """Return the counts of all aims together."""
        return by_class(sum(self._aims, Counter[str]()))

    def by_aim(self) -> list[dict[str, int]]:
        """Return the counts of each aim."""
        return [by_class(one) for one in self._aims]

    def settled(self) -> list[dict[str, int]]:
        """Return what of each aim was settled; empty if nothing was."""
        return [by_class(one) for one in self._settled] if any(self._settled) else []
