"""Who holds something in a campaign: a Bloom filter over the log of holders in Redis.

A buyer in it is never refused from memory, so that the retry of an accepted order gets its acceptance. A false hit
only costs a question to Redis; there are no false misses.
"""

from typing import Final

HASH_BYTES: Final = 8
BITS_PER_HOLDER: Final = 16
PROBES: Final = 4
CAPACITY_MIN: Final = 1_024


class HolderFilter:
    """Bloom filter of 8-byte user hashes; at its capacity about 0.24% of strangers hit."""

    __slots__ = ("_bits", "_size", "capacity", "count")

    def __init__(self, capacity: int) -> None:
        self.capacity = max(CAPACITY_MIN, capacity)
        self.count = 0
        self._size = self.capacity * BITS_PER_HOLDER
        self._bits = bytearray(self._size // 8 + 1)

    def add(self, user_hash: bytes) -> None:
        """Add one 8-byte hash."""
        step = int.from_bytes(user_hash[4:], "little") | 1
        place = int.from_bytes(user_hash[:4], "little")
        for _ in range(PROBES):
            bit = place % self._size
            self._bits[bit >> 3] |= 1 << (bit & 7)
            place += step
        self.count += 1

    def add_log(self, log: bytes) -> None:
        """Add every hash of a piece of the log, 8 bytes each."""
        for start in range(0, len(log), HASH_BYTES):
            self.add(log[start : start + HASH_BYTES])

    def is_full(self, more: int) -> bool:
        """Tell whether that many more would make false hits frequent."""
        return self.count + more > self.capacity

    def __contains__(self, user_hash: bytes) -> bool:
        step = int.from_bytes(user_hash[4:], "little") | 1
        place = int.from_bytes(user_hash[:4], "little")
        for _ in range(PROBES):
            bit = place % self._size
            if not self._bits[bit >> 3] & (1 << (bit & 7)):
                return False
            place += step
        return True
