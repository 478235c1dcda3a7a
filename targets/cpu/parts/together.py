"""Tiles of a kernel that work together, phase after phase.

The tiles of a *team* all do the same: they go through its phases in order, and each phase is cut
into parts. Whoever comes to a phase claims a part, its own one first, and goes on when all parts
are done. So each phase may read what the one before has written, whichever thread has: a step of a
recurrent layer the states that the step before has left.

No thread waits for one that is not there. A part is claimed only by who is at work on it, so it
will be done; while some of the team have not come, those who have take the parts of the others, be
it all of them, and who comes late goes straight to where they are. Once all are there each does the
same part of every phase, so what it reads again is still in its cache.

The counters are words of the block of arguments. They begin as zeros, and the last of the team to
leave puts the zeros back. In a phase of one part, or a team of one, nothing is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from migx.dim import Extent
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.threads.runtime import filled, waiting, watched

PATIENCE = 64
"""How often a thread looks whether the others are done before it lets the system run something else
on its core. Parts take about as long as each other, so they are soon; where they are not, it is
likely that one of them waits for this core.
"""
LINE = 8
"""Words in a line of the cache: what is written by different threads lies on different ones."""
DONE, CAME, LEFT, CLAIMS = 0, LINE, LINE + 1, 2 * LINE
"""Where counters of a team are, in words: the parts done so far, how many have come and how many
have left, and then for each part, on a line of its own, the last phase in which it was claimed.
"""
MEMBER, PHASE, EXPECTED = 0, 1, 2
"""Where a member keeps, in words, its own number, that of the phase it is in, and how many parts
there are until that is done.
"""


def _word(name: str, of: str, word: int) -> str:
    return f"  %{name} = getelementptr i64, ptr %{of}, i64 {word}\n"


_FUNCTIONS = f"""
define internal i64 @count(ptr %team, i64 %counter) noinline {{
  %at = getelementptr i64, ptr %team, i64 %counter
  %before = atomicrmw add ptr %at, i64 1 acq_rel
  %now = add i64 %before, 1
  ret i64 %now
}}

; A phase begins: how many parts to ask for, its own alone where all are there.
define internal i64 @begin(ptr %team, ptr %own, i64 %parts, i64 %members) noinline {{
{_word("pphase", "own", PHASE)}
{_word("pexpected", "own", EXPECTED)}
{_word("pcame", "team", CAME)}
  %before = load i64, ptr %pphase
  %phase = add i64 %before, 1
  store i64 %phase, ptr %pphase
  %past = load i64, ptr %pexpected
  %expected = add i64 %past, %parts
  store i64 %expected, ptr %pexpected
  %came = load atomic i64, ptr %pcame monotonic, align 8
  %all = icmp sge i64 %came, %members
  %asked = select i1 %all, i64 1, i64 %parts
  ret i64 %asked
}}

; The part that is now this member's, or -1. Every other member goes from the last to the first, so
; that few meet where parts are many.
define internal i64 @claim(ptr %team, ptr %own, i64 %turn, i64 %parts) noinline {{
{_word("pphase", "own", PHASE)}
  %phase = load i64, ptr %pphase
  %member = load i64, ptr %own
  %half = lshr i64 %member, 1
  %far = add i64 %half, %turn
  %place = urem i64 %far, %parts
  %odd = trunc i64 %member to i1
  %last = sub i64 %parts, 1
  %turned = sub i64 %last, %place
  %part = select i1 %odd, i64 %turned, i64 %place
  %line = mul i64 %part, {LINE}
  %word = add i64 %line, {CLAIMS}
  %at = getelementptr i64, ptr %team, i64 %word
  %claimed = load atomic i64, ptr %at monotonic, align 8
  %free = icmp slt i64 %claimed, %phase
  br i1 %free, label %try, label %taken
try:
  %swap = cmpxchg ptr %at, i64 %claimed, i64 %phase acquire monotonic
  %mine = extractvalue {{i64, i1}} %swap, 1
  br i1 %mine, label %got, label %taken
got:
  ret i64 %part
taken:
  ret i64 -1
}}

; Waits until all parts of the phase are done.
define internal void @finish(ptr %team, ptr %own) noinline {{
entry:
{_word("pexpected", "own", EXPECTED)}
  %expected = load i64, ptr %pexpected
  br label %watch
{watched("entry", "team", "sge i64 %seen, %expected", PATIENCE)}
end:
  ret void
}}
"""


@dataclass(frozen=True)
class Part:
    """One of ``parts`` parts of a phase."""

    number: Value
    parts: Value

    def of(self, items: Value) -> tuple[Value, Value]:
        """From which to before which of some items it goes."""
        return items * self.number // self.parts, items * (self.number + 1) // self.parts


class Team:
    """A team of ``members`` tiles, of which a kernel has several, at most ``most`` strong."""

    def __init__(self, frame: Frame, teams: int, members: Extent, most: int) -> None:
        self.f, self.single = frame.function, members == 1
        if self.single:
            return
        self.members = frame.extent(members)
        self.words = CLAIMS + most * LINE
        self.counters = frame.counters(teams * self.words)
        self.own = self.f.local(I64, 3)
        declared, waits = waiting()
        frame.module.declare(declared + filled(_FUNCTIONS, waits))

    @contextmanager
    def joined(self, team: Value, member: Value) -> Iterator[None]:
        """What one member does: all phases."""
        if self.single:
            yield
            return
        f = self.f
        self._team = f.element(self.counters, team * self.words, I64)
        for word, value in ((MEMBER, member), (PHASE, 0), (EXPECTED, 0)):
            f.store(f.as_index(value), f.element(self.own, word, I64))
        several = self.members > 1
        with f.when(several):
            self._count(CAME)
        yield
        with f.when(several, [f.as_index(0)]) as leaving:
            leaving.carry(self._count(LEFT))
        is_last = several & f.compare("eq", leaving.carried[0], self.members)
        with f.when(is_last), f.loop(0, self.words) as counter:
            f.store(f.as_index(0), f.element(self._team, counter.index, I64))

    @contextmanager
    def phase(self, parts: Value) -> Iterator[Part]:
        """Each part of a phase, which one of the team does; all wait until all are done."""
        with self._shared(parts, parts > 1) as part:
            yield part

    @contextmanager
    def by_one(self, condition: Value) -> Iterator[None]:
        """What one member does alone, where an i1 holds, while the others wait; else each does it.
        Phases in it are of one part then.
        """
        one = self.f.as_index(1)
        with self._shared(one, condition if self.single else condition & (self.members > 1)):
            yield

    @contextmanager
    def _shared(self, parts: Value, condition: Value) -> Iterator[Part]:
        """Parts of a phase that are claimed, where an i1 holds; else each member does all of it."""
        f, none = self.f, self.f.as_index(0)
        if self.single:
            yield Part(none, f.as_index(1))
            return
        with f.when(condition, [f.as_index(1)]) as begun:
            begun.carry(self._call("begin", parts, self.members))
        with f.loop(0, begun.carried[0]) as turn:
            with f.when(condition, [none]) as claimed:
                claimed.carry(self._call("claim", turn.index, parts))
            with f.when(claimed.carried[0] >= 0):
                yield Part(claimed.carried[0], parts)
                with f.when(condition):
                    self._count(DONE)
        with f.when(condition):
            f.do(f"call void @finish(ptr {self._team.text}, ptr {self.own.text})")

    def _count(self, counter: int) -> Value:
        return self.f.emit(f"call i64 @count(ptr {self._team.text}, i64 {counter})", I64)

    def _call(self, name: str, a: Value, b: Value) -> Value:
        given = f"ptr {self._team.text}, ptr {self.own.text}, i64 {a.text}, i64 {b.text}"
        return self.f.emit(f"call i64 @{name}({given})", I64)
