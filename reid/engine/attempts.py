"""A count in a process of its own, which would wait seconds for torch if it had to import it."""

from collections import Counter


class Attempts:
    """Counts how often each shard was begun: one that costs every actor its memory must not go round for ever."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """How often this shard was begun, this time included."""
        self.begun[number] += 1
        return self.begun[number]
