"""Waiting lines of a crowd: buyers who came at the same time wait as one group, so that millions cost no more. Pure.

A line and a calendar hold a bounded number of groups, whatever comes: groups that are alike are merged. A merged group
is as many buyers as its parts, who came at their mean time and had their mean number of tries.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

GROUPS_MAX: Final = 2_048
"""A line holds so many groups at most; neighbours in it are merged before there are more."""
TRY_CLASSES: Final = 8
"""Up to so many numbers of tries are told apart; with more retries than that, neighbouring numbers are merged."""
MIX_CLASSES: Final = 4
"""So many classes of what is still wanted are told apart in one slot."""


class Group:
    """Buyers who came to a line at the same time.

    Attributes:
        since: the slot in which their request was sent.
        tries: how often they were told to come back before; a mean, if groups were merged.
        total: how many they are. A fluid: parts of a buyer are allowed.
        mix: they want the SKUs from this rank on, see `bench.simulate_shelf`; before it nobody of them wants any.
    """

    __slots__ = ("mix", "since", "total", "tries")

    def __init__(self, since: float, tries: float, total: float, mix: int) -> None:
        self.since = since
        self.tries = tries
        self.total = total
        self.mix = mix

    def part(self, share: float) -> "Group":
        """Take a share of everybody away, and return it."""
        gone = self.total * share
        self.total -= gone
        return Group(self.since, self.tries, gone, self.mix)

    def merge(self, other: "Group") -> None:
        """Take in another group. What most of them want is what all of them want from then on."""
        both = self.total + other.total
        if both <= 0:
            return
        share = other.total / both
        self.since += (other.since - self.since) * share
        self.tries += (other.tries - self.tries) * share
        if other.total > self.total:
            self.mix = other.mix
        self.total = both


class Line:
    """A line, first come first served."""

    def __init__(self) -> None:
        self._groups: deque[Group] = deque()
        self.total = 0.0

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def push(self, group: Group) -> None:
        """Put buyers at the end."""
        if group.total <= 0:
            return
        if len(self._groups) >= GROUPS_MAX:
            self._merge_neighbours()
        self._groups.append(group)
        self.total += group.total

    def take(self, count: float) -> list[Group]:
        """Take the first so many out."""
        return self._take(count, 0)

    def take_older(self, since: float) -> list[Group]:
        """Take out whoever came before a slot."""
        taken = []
        while self._groups and self._groups[0].since < since:
            taken.append(self._groups.popleft())
        self._recount(taken)
        return taken

    def drop_last(self, count: float) -> list[Group]:
        """Take the last so many out: those for whom there was no room."""
        return self._take(count, -1)

    def _take(self, count: float, end: int) -> list[Group]:
        taken: list[Group] = []
        while count > 0 and self._groups:
            one = self._groups[end]
            if one.total > count:
                taken.append(one.part(count / one.total))
                break
            count -= one.total
            taken.append(one)
            if end == 0:
                self._groups.popleft()
            else:
                self._groups.pop()
        self._recount(taken)
        return taken

    def _recount(self, taken: list[Group]) -> None:
        self.total = max(0.0, self.total - sum(group.total for group in taken)) if self._groups else 0.0

    def _merge_neighbours(self) -> None:
        merged: deque[Group] = deque()
        for number, group in enumerate(self._groups):
            if number % 2:
                merged[-1].merge(group)
            else:
                merged.append(group)
        self._groups = merged


class Calendar:
    """Buyers who do something in a later slot; those of a slot who are alike are one group.

    Args:
        retries_max: of the crowd: its tries are divided into `TRY_CLASSES`.
    """

    def __init__(self, retries_max: int) -> None:
        self._classes = min(1.0, TRY_CLASSES / (retries_max + 1))
        self._slots: dict[int, dict[tuple[int, int], Group]] = {}
        self.groups = 0

    def __bool__(self) -> bool:
        return bool(self._slots)

    def put(self, slot: int, group: Group, mix_class: int) -> None:
        """Note a group for a slot; it is the calendar's from then on.

        Args:
            slot: when.
            group: who.
            mix_class: less than `MIX_CLASSES`: who is alike in what he wants.
        """
        groups = self._slots.setdefault(slot, {})
        key = (int(group.tries * self._classes + 1e-9), mix_class)
        there = groups.get(key)
        if there is None:
            groups[key] = group
            self.groups += 1
        else:
            there.merge(group)

    def take(self, slot: int) -> list[Group]:
        """Take out the groups of a slot."""
        groups = self._slots.pop(slot, None)
        if groups is None:
            return []
        self.groups -= len(groups)
        return list(groups.values())
