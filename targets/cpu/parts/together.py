"""Tiles of a kernel that synchronise, phase by phase.

The tiles of a *team* all go through the same phases in order, and each phase is cut into parts. A
member that reaches a phase claims parts, its own first, and goes on when all parts are done. So
each phase may read what the one before has written, by whichever thread: a step of a recurrent
layer reads the states of the step before.

No thread waits for one that has not started. A part is claimed only by a thread that is at work on
it, so it will be done; while members are missing, those present take their parts, if need be all of
them, and a late member goes straight to the current phase. Once all are present each does the same
part of every phase, so what it reads again is still in its cache. Members on one core yield it to
each other.

The counters are words of the block of arguments. They start as zeros, and the last member to leave
resets them. A phase of one part, or a team of one, needs no counting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from migx.dim import Extent
from migx.targets.cpu.emit import I64, Value
from migx.targets.cpu.kernel import Frame
from migx.targets.cpu.threads import cores
from migx.targets.cpu.threads.runtime import filled, waiting, watched

LINE = 8
"""Words in a cache line: words written by different threads are on different lines."""
DONE, CAME, LEFT, CLAIMS = 0, LINE, LINE + 1, 2 * LINE
"""The offsets, in words, of a team's counters: the parts done so far, the members that have come
and that have left, and then for each part, on a line of its own, the last phase in which it was
claimed, and where the member of that number began it: the core and 1.
"""
MEMBER, PHASE, EXPECTED = 0, 1, 2
"""The offsets, in words, of a member's state: its own number, the number of its phase, and the
parts done by the end of that.
"""


def _word(name: str, of: str, word: int) -> str:
    return f"  %{name} = getelementptr i64, ptr %{of}, i64 {word}\n"


_SHARES = "  %crowded = call i1 @shares(ptr %team, ptr %own, i64 %members)"
_FUNCTIONS = f"""
define internal i64 @count(ptr %team, i64 %counter) noinline {{
  %at = getelementptr i64, ptr %team, i64 %counter
  %before = atomicrmw add ptr %at, i64 1 acq_rel
  %now = add i64 %before, 1
  ret i64 %now
}}

define internal ptr @core_of(ptr %team, i64 %member) {{
  %line = mul i64 %member, {LINE}
  %word = add i64 %line, {CLAIMS + 1}
  %at = getelementptr i64, ptr %team, i64 %word
  ret ptr %at
}}

; Whether another member began its last phase on the core where this one is.
define internal i1 @shares(ptr %team, ptr %own, i64 %members) noinline {{
entry:
  %me = load i64, ptr %own
  %core = call i64 @here()
  %mark = add i64 %core, 1
  br label %each
each:
  %member = phi i64 [0, %entry], [%next, %each]
  %found = phi i1 [0, %entry], [%either, %each]
  %at = call ptr @core_of(ptr %team, i64 %member)
  %theirs = load atomic i64, ptr %at monotonic, align 8
  %same = icmp eq i64 %theirs, %mark
  %another = icmp ne i64 %member, %me
  %shared = and i1 %same, %another
  %either = or i1 %found, %shared
  %next = add i64 %member, 1
  %more = icmp slt i64 %next, %members
  br i1 %more, label %each, label %end
end:
  ret i1 %either
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
  %member = load i64, ptr %own
  %pcore = call ptr @core_of(ptr %team, i64 %member)
  %core = call i64 @here()
  %mark = add i64 %core, 1
  store atomic i64 %mark, ptr %pcore monotonic, align 8
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
define internal void @finish(ptr %team, ptr %own, i64 %members) noinline {{
entry:
{_word("pexpected", "own", EXPECTED)}
  %expected = load i64, ptr %pexpected
  br label %watch
{watched("entry", "team", "sge i64 %seen, %expected", _SHARES)}
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
        """The half-open range of some items that it covers."""
        return items * self.number // self.parts, items * (self.number + 1) // self.parts


class Team:
    """One of a kernel's teams of ``members`` tiles; ``most`` is the maximal size."""

    def __init__(self, frame: Frame, teams: int, members: Extent, most: int) -> None:
        self.f, self.single = frame.function, members == 1
        if self.single:
            return
        self.members = frame.extent(members)
        self.words = CLAIMS + most * LINE
        self.counters = frame.counters(teams * self.words)
        self.own = self.f.local(I64, 3)
        declared, waits = waiting()
        frame.module.declare(declared + cores.functions() + filled(_FUNCTIONS, waits))

    @contextmanager
    def joined(self, team: Value, member: Value) -> Iterator[None]:
        """The body of one member: all phases."""
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
        """Each part of a phase, done by one member; all wait until all are done."""
        with self._shared(parts, parts > 1) as part:
            yield part

    @contextmanager
    def by_one(self, condition: Value) -> Iterator[None]:
        """A body that one member executes while the others wait, if an i1 holds; otherwise each
        executes it, and phases in it are of one part.
        """
        one = self.f.as_index(1)
        with self._shared(one, condition if self.single else condition & (self.members > 1)):
            yield

    @contextmanager
    def _shared(self, parts: Value, condition: Value) -> Iterator[Part]:
        """The parts of a phase, claimed if an i1 holds; otherwise each member does all of it."""
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
            given = f"ptr {self._team.text}, ptr {self.own.text}, i64 {self.members.text}"
            f.do(f"call void @finish({given})")

    def _count(self, counter: int) -> Value:
        return self.f.emit(f"call i64 @count(ptr {self._team.text}, i64 {counter})", I64)

    def _call(self, name: str, a: Value, b: Value) -> Value:
        given = f"ptr {self._team.text}, ptr {self.own.text}, i64 {a.text}, i64 {b.text}"
        return self.f.emit(f"call i64 @{name}({given})", I64)
