"""Who holds something in a campaign: a Bloom filter over the log of holders in Redis.

A buyer in it is never refused from memory, so that the retry of an accepted order gets its acceptance. A false hit
only costs a question to Redis; there are no false misses.
"""

import sys
from typing import Final

HASH_BYTES: Final = 8
BITS_PER_HOLDER: Final = 16
"""At least; the filter's size is a power of two."""
CAPACITY_MIN: Final = 1_024


class HolderFilter:
    """Bloom filter of 8-byte user hashes with four probes; at its capacity at most 0.24% of strangers hit."""

    __slots__ = ("_bits", "_mask", "_recent", "_recent_before", "capacity", "count")

    def __init__(self, capacity: int) -> None:
        self.capacity = max(CAPACITY_MIN, capacity)
        self.count = 0
        size = 1 << (self.capacity * BITS_PER_HOLDER - 1).bit_length()
        self._mask = size - 1
        self._bits = bytearray(size >> 3)
        self._recent: set[bytes] = set()
        self._recent_before: set[bytes] = set()

    def note(self, user_hash: bytes) -> None:
        """Remember one whom the log tells of too, sooner or later: see `log_read_begins`."""
        self._recent.add(user_hash)

    @property
    def noted(self) -> set[bytes]:
        """What has been noted and may not have been found in the log yet."""
        return self._recent | self._recent_before

    def log_read_begins(self) -> None:
        """Tell that the log is being read: what was noted until now will be in it."""
        self._recent_before |= self._recent
        self._recent = set()

    def log_read_ended(self) -> None:
        """Tell that all of it has been added by `add_log`: what was noted before it began need not be kept."""
        self._recent_before = set()

    def add_log(self, log: bytes) -> None:
        """Add every hash of a piece of the log, 8 bytes each."""
        bits, mask = self._bits, self._mask
        words = memoryview(log).cast("Q")
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
        self.count += len(words)

    def is_full(self, more: int) -> bool:
        """Tell whether that many more would make false hits frequent."""
        return self.count + more > self.capacity

    def __contains__(self, user_hash: bytes) -> bool:
        word = int.from_bytes(user_hash, sys.byteorder)
        place, step = word & 0xFFFFFFFF, (word >> 32) | 1
        bits, mask = self._bits, self._mask
        for _ in range(4):
            bit = place & mask
            if not bits[bit >> 3] & (1 << (bit & 7)):
                return user_hash in self._recent or user_hash in self._recent_before
            place += step
        return True
