"""`python -m tests.fuzz.guided`: the same targets, led by coverage (atheris). Arguments are libFuzzer's, or a file that
it left: `python -m tests.fuzz.guided crash-…` gives that input again."""

import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["api", "shared", "worker"]):
    from tests.fuzz.targets import TARGETS

_CHOSEN = list(TARGETS.values())


class Given(Random):
    """Chance that is read from bytes, so that what leads the bytes leads what a target does. Zeros where they end."""

    def __new__(cls, _given: bytes) -> "Given":
        """Nothing of the seed, which may be any bytes."""
        return super().__new__(cls)

    def __init__(self, given: bytes) -> None:
        self._left = given
        super().__init__(0)

    def getrandbits(self, count: int, /) -> int:
        """The next bytes, as many as that takes."""
        size = (count + 7) // 8
        part, self._left = self._left[:size], self._left[size:]
        return int.from_bytes(part, "little") & ((1 << count) - 1)

    def random(self) -> float:
        """From 0 to 1, in steps that two bytes can tell."""
        return self.getrandbits(16) / (1 << 16)


def one(given: bytes) -> None:
    """The first byte chooses the target, the others are its chance."""
    if given:
        _CHOSEN[given[0] % len(_CHOSEN)](Given(given[1:]))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
