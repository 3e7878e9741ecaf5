"""Not calling who does not answer: a circuit per provider and model, which opens, probes and closes. Pure.

Closed: calls are made. After failures in a row, or where half of many recent calls failed, it opens: nobody calls.
When that has lasted for its time, one call at a time is let through as a probe: an answer closes the circuit, a failure
opens it for twice as long. What says nothing of the provider (a refusal, a cancelled job) changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from worker.window import Window

SPAN_S = 30.0
LEAST = 20
"""So many results within SPAN_S are enough to judge by their share of failures …"""
SHARE = 0.5
"""… and this share opens the circuit."""
MOST = 256
"""Circuits in one worker. Only a failure of the provider makes one, so clients cannot fill the table with names."""
_GOOD, _BAD = 0, 1

Name = tuple[str, str]
"""Provider and model."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`failures` in a row open a circuit, 0: never; for `open_s` at first, doubling up to `open_max_s`."""

    failures: int
    open_s: float
    open_max_s: float


class Circuit:
    """One provider's model. `now`: a monotonic clock in s; `chance`: a number from 0 to 1; `changed`: told at each
    change whether it is open."""

    def __init__(
        self, limits: Limits, now: Callable[[], float], chance: Callable[[], float], changed: Callable[[bool], None]
    ) -> None:
        self._limits = limits
        self._now = now
        self._chance = chance
        self._changed = changed
        self._times_open = 0
        """How often in a row it has opened without an answer."""
        self._due_s = 0.0
        self._next_probe_s = 0.0
        self.open = False
        self.probing = False
        self._begin()

    def probe(self) -> None:
        """A probe goes out. One that hangs must not keep the others from trying, so the next may follow in a while."""
        self.probing = True
        self._next_probe_s = self._now() + self._limits.open_s

    def _begin(self) -> None:
        self._in_a_row = 0
        self._results = Window(SPAN_S, self._now, buckets=30)

    @property
    def wait_s(self) -> float | None:
        """None where a call is let through; else for how many s nobody is."""
        left_s = max(self._due_s, self._next_probe_s if self.probing else 0.0) - self._now()
        return left_s if self.open and left_s > 0 else None

    def answered(self, *, probe: bool) -> None:
        """Content came, or a proper end: the provider works."""
        if probe:
            self._times_open = 0
            self._begin()
            self.close()
        if not self.open:  # what was begun before it opened says nothing of now
            self._in_a_row = 0
            self._results.add(_GOOD)

    def failed(self, *, probe: bool, begun: bool, retry_after_s: float) -> None:
        """The call failed, and the provider is to blame. `begun`: after content had come. It is not out of reach then,
        and only the share counts."""
        if self.open and not probe:
            return
        self._results.add(_BAD)
        self._in_a_row += not begun
        if probe or self._in_a_row >= self._limits.failures or self._half_failed():
            self._open(retry_after_s)

    def released(self) -> None:
        """The probe ended without saying anything of the provider: the next call is the probe."""
        self.probing = False

    def close(self) -> None:
        """Let everybody call."""
        self.probing = False
        if self.open:
            self.open = False
            self._changed(False)

    def _half_failed(self) -> bool:
        bad, good = self._results.count(_BAD), self._results.count(_GOOD)
        return bad + good >= LEAST and bad >= SHARE * (bad + good)

    def _open(self, retry_after_s: float) -> None:
        span_s = min(self._limits.open_max_s, self._limits.open_s * 2 ** min(self._times_open, 32))
        wait_s = span_s * (0.5 + self._chance() / 2)  # workers must not come back together
        self._due_s = self._now() + max(wait_s, min(retry_after_s, self._limits.open_max_s))
        self._times_open += 1
        self.probing = False
        if not self.open:
            self.open = True
            self._changed(True)


class Passage:
    """One call's leave to be made: `answered` at its first content, then `failed` or `released` at its end."""

    def __init__(self, circuits: "Circuits", name: Name, probe_of: Circuit | None) -> None:
        self._circuits = circuits
        self._name = name
        self._probe_of = probe_of
        self._begun = False

    def answered(self) -> None:
        """See Circuit.answered. Once is enough."""
        if not self._begun:
            self._begun = True
            circuit = self._probe_of or self._circuits.get(self._name)
            if circuit is not None:
                circuit.answered(probe=self._probe_of is not None)
            self._probe_of = None

    def failed(self, retry_after_s: float | None) -> None:
        """See Circuit.failed."""
        circuit = self._circuits.blamed(self._name)
        if circuit is not None:
            circuit.failed(probe=circuit is self._probe_of, begun=self._begun, retry_after_s=retry_after_s or 0.0)
        self._probe_of = None

    def released(self) -> None:
        """See Circuit.released."""
        if self._probe_of is not None:
            self._probe_of.released()
            self._probe_of = None


class Circuits:
    """All circuits of a worker. `changed` is told of each that opens (True) or closes (False)."""

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float],
        chance: Callable[[], float],
        changed: Callable[[Name, bool], None],
    ) -> None:
        self._limits = limits
        self._now = now
        self._chance = chance
        self._changed = changed
        self._table: dict[Name, Circuit] = {}
        """The one whose last failure is the oldest comes first."""

    def get(self, name: Name) -> Circuit | None:
        """The circuit, if the provider's model has ever failed."""
        return self._table.get(name)

    def blamed(self, name: Name) -> Circuit | None:
        """The circuit of one that has just failed; None where circuits are turned off."""
        if not self._limits.failures:
            return None
        circuit = self._table.pop(name, None)
        if circuit is None:
            circuit = Circuit(self._limits, self._now, self._chance, partial(self._changed, name))
        self._table[name] = circuit
        while len(self._table) > MOST:
            self._table.pop(next(iter(self._table))).close()
        return circuit

    def wait_s(self, name: Name) -> float | None:
        """See Circuit.wait_s."""
        circuit = self._table.get(name)
        return None if circuit is None else circuit.wait_s

    def enter(self, name: Name) -> Passage:
        """Leave for a call, where `wait_s` is None. Where the circuit is open, this call is the probe."""
        circuit = self._table.get(name)
        if circuit is None or not circuit.open:
            return Passage(self, name, None)
        circuit.probe()
        return Passage(self, name, circuit)
