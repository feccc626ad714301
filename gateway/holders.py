"""Who holds something in a campaign, as the log of holders in Redis tells: exact for a while, then a Bloom filter.

A buyer in it is never refused from memory, so that the retry of an accepted order gets its acceptance. There are no
false misses. A false hit, which only the Bloom filters know, costs a question to Redis.
"""

import sys
from collections.abc import Iterable
from typing import Final

HASH_BYTES: Final = 8
BYTE_ORDER: Final = sys.byteorder
EXACT_MAX: Final = 131_072
"""So many are kept exactly, which takes about 9 MB; of more, 16 to 32 bits each are kept."""
BITS_PER_HOLDER: Final = 16
"""At least; a filter's size is a power of two."""
GROWTH: Final = 4


class BloomFilter:
    """Bloom filter of 64-bit hashes with four probes; at its capacity at most 0.24% of strangers hit."""

    __slots__ = ("_bits", "_mask", "capacity", "count")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        size = 1 << (capacity * BITS_PER_HOLDER - 1).bit_length()
        self._mask = size - 1
        self._bits = bytearray(size >> 3)

    def add(self, words: Iterable[int]) -> None:
        """Add hashes."""
        bits, mask, count = self._bits, self._mask, 0
        for word in words:
            place, step = word & 0xFFFFFFFF, (word >> 32) | 1
            bit = place & mask
            bits[bit >> 3] |= 1 << (bit & 7)
            bit = (place + step) & mask
            bits[bit >> 3] |= 1 << (bit & 7)
            bit = (place + 2 * step) & mask
            bits[bit >> 3] |= 1 << (bit & 7)
            bit = (place + 3 * step) & mask
            bits[bit >> 3] |= 1 << (bit & 7)
            count += 1
        self.count += count

    def __contains__(self, word: int) -> bool:
        place, step = word & 0xFFFFFFFF, (word >> 32) | 1
        bits, mask = self._bits, self._mask
        for _ in range(4):
            bit = place & mask
            if not bits[bit >> 3] & (1 << (bit & 7)):
                return False
            place += step
        return True


class Holders:
    """All holders of one campaign that a worker knows of. Nobody is ever taken out."""

    __slots__ = ("_exact", "_exact_max", "_filters")

    def __init__(self, exact_max: int = EXACT_MAX) -> None:
        self._exact_max = exact_max
        self._exact: set[int] = set()
        self._filters: list[BloomFilter] = []

    def note(self, user_hash: bytes) -> None:
        """Add one 8-byte hash; the log tells of it too, sooner or later."""
        word = int.from_bytes(user_hash, BYTE_ORDER)
        if self._filters:
            self._add((word,), 1)
        else:
            self._exact.add(word)

    def add_log(self, log: bytes) -> None:
        """Add every hash of a piece of the log, 8 bytes each."""
        words = memoryview(log).cast("Q")
        self._add(words, len(words))

    def _add(self, words: Iterable[int], count: int) -> None:
        if not self._filters:
            self._exact.update(words)
            if len(self._exact) > self._exact_max:
                self._grow(len(self._exact))
                self._filters[0].add(self._exact)
                self._exact = set()
            return
        last = self._filters[-1]
        if last.count + count > last.capacity:
            last = self._grow(max(count, last.capacity))
        last.add(words)

    def _grow(self, size: int) -> BloomFilter:
        self._filters.append(BloomFilter(GROWTH * size))
        return self._filters[-1]

    def __contains__(self, user_hash: bytes) -> bool:
        word = int.from_bytes(user_hash, BYTE_ORDER)
        return word in self._exact or (bool(self._filters) and any(word in one for one in self._filters))
