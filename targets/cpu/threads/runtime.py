"""The functions compiled beside kernels: the loop over the steps of a plan, where idle threads are
parked, and how they are woken and stopped.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from migx.targets.cpu.code import jit
from migx.targets.cpu.threads import cores

STEP_WORDS, TILES_WORD = 4, 2
"""The words of a step: the address of its code, that of its arguments, the number of tiles, and a
step number. A step without code is a jump to that step; if its tiles are not 0, only if the byte at
the address in its arguments is 0.
"""
BACK = 256
"""The backward jumps after which a run returns, so that faults and signals are checked."""
CLAIMS = 8
"""The most claims per thread into which a job is cut."""
ASK = 64
"""How often a thread that waits for others polls before it asks whether they are on its core."""
PATIENCE = 12_000
"""How often a thread that waits for others polls before it sleeps: tenths of a millisecond."""
NAP = 30
"""The microseconds of each sleep. A thread that only yields still looks busy, so the system leaves
those it waits for in the queue of a core that is taken; the core of one that sleeps is given to
them.
"""

# The state, offsets in bytes: words written by different threads are on different cache lines.
EPOCH, GATE, NEXT, OWNER, SLEEPERS, STOP = 0, 64, 128, 192, 256, 320
CODE, ARGS, TILES, CLAIM, SCRATCH, STRIDE, LIMIT, PLACE = (384 + 8 * i for i in range(8))
MUTEX, CONDITION = 448, 576
STATE_BYTES = 704

_making = threading.Lock()


def _after_fork() -> None:
    """Renews the lock: one that another thread held at the fork is never released in the child."""
    global _making  # noqa: PLW0603
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


CALL_WORDS = 7
"""The argument of the compiled loop over steps, ``runtime().run``: the address of the steps, the
first and the end, the state of the threads, how many may work, the address of the first thread's
scratch, and the stride to the next's. It returns the step it has reached: the end or one after it,
if it is not to be called again.
"""
ENTRIES = {"run": ("i64", 1), "serve": ("void", 3), "start": ("void", 1), "stop": ("void", 1)}
"""The compiled functions below: the result type and number of argument words of each."""


class Runtime:
    """The compiled functions, and the code that holds them."""

    def __init__(self) -> None:
        texts = _texts()
        self._codes = jit.codes(runtime_texts())
        for name, (returned, words) in ENTRIES.items():
            types = [ctypes.c_int64] * words
            result = None if returned == "void" else ctypes.c_int64
            code = self._codes[jit.symbol(texts[name])]
            setattr(self, name, ctypes.CFUNCTYPE(result, *types)(code.address))

    run: Any
    serve: Any
    start: Any
    stop: Any


_made: Runtime | None = None


def runtime_texts() -> dict[str, str]:
    """The texts of these functions by symbol, as for kernels."""
    return {jit.symbol(text): text for text in _texts().values()}


def runtime() -> Runtime:
    """The compiled functions of this process."""
    global _made  # noqa: PLW0603  one for the process
    if _made is None:
        with _making:
            if _made is None:
                _made = Runtime()
    return _made


@cache
def _texts() -> dict[str, str]:
    """The text of each function: an object exports one, so each has an object of its own."""
    text = _text()
    return {
        name: text.replace(f"define internal {result} @{name}(", f"define {result} @kernel(")
        for name, (result, _) in ENTRIES.items()
    }


def _field(name: str, offset: int) -> str:
    return f"  %{name} = getelementptr i8, ptr %state, i64 {offset}\n"


def _word(name: str, number: int, kind: str = "i64") -> str:
    at = f"  %at_{name} = getelementptr i64, ptr %call, i64 {number}\n"
    return f"{at}  %{name} = load {kind}, ptr %at_{name}"


def watched(before: str, word: str, until: str, ask: str = "  %crowded = or i1 0, 0") -> str:
    """The block ``watch`` and those it needs: polls a word of memory, ``%seen``, until a condition
    holds, and continues at ``end``. After every ``ASK`` polls ``ask`` gives ``%crowded``, whether
    whom it waits for is on this core, which is then yielded; after ``PATIENCE`` polls it sleeps.
    """
    return f"""watch:
  %n = phi i64 [0, %{before}], [%n2, %spin], [%n2, %nap], [%n2, %yield]
  %seen = load atomic i64, ptr %{word} acquire, align 8
  %enough = icmp {until}
  br i1 %enough, label %end, label %busy
busy:
  %n2 = add i64 %n, 1
  %since = urem i64 %n2, {ASK}
  %asks = icmp eq i64 %since, 0
  br i1 %asks, label %asked, label %spin
spin:
<pause>
  br label %watch
asked:
{ask}
  br i1 %crowded, label %yield, label %patient
yield:
<yield>
  br label %watch
patient:
  %long = icmp ugt i64 %n, {PATIENCE}
  br i1 %long, label %nap, label %spin
nap:
<nap>
  br label %watch"""


def _system() -> dict[str, str]:
    """How this system locks, waits and wakes, as instructions."""
    if sys.platform == "win32":
        return {
            "declare": "declare void @AcquireSRWLockExclusive(ptr)\n"
            "declare void @ReleaseSRWLockExclusive(ptr)\n"
            "declare i8 @TryAcquireSRWLockExclusive(ptr)\n"
            "declare i32 @SleepConditionVariableSRW(ptr, ptr, i32, i32)\n"
            "declare void @WakeAllConditionVariable(ptr)\n",
            "init": "",
            "lock": "  call void @AcquireSRWLockExclusive(ptr %mutex)\n",
            "unlock": "  call void @ReleaseSRWLockExclusive(ptr %mutex)\n",
            "trylock": "  %took = call i8 @TryAcquireSRWLockExclusive(ptr %mutex)\n"
            "  %free = icmp ne i8 %took, 0\n",
            "wait": "  call i32 @SleepConditionVariableSRW(ptr %cond, ptr %mutex, i32 -1, i32 0)\n",
            "wake": "  call void @WakeAllConditionVariable(ptr %cond)\n",
        }
    return {
        "declare": "declare i32 @pthread_mutex_lock(ptr)\ndeclare i32 @pthread_mutex_unlock(ptr)\n"
        "declare i32 @pthread_cond_wait(ptr, ptr)\ndeclare i32 @pthread_cond_broadcast(ptr)\n"
        "declare i32 @pthread_mutex_init(ptr, ptr)\ndeclare i32 @pthread_cond_init(ptr, ptr)\n"
        "declare i32 @pthread_mutex_trylock(ptr)\n",
        "init": "  call i32 @pthread_mutex_init(ptr %mutex, ptr null)\n"
        "  call i32 @pthread_cond_init(ptr %cond, ptr null)\n",
        "lock": "  call i32 @pthread_mutex_lock(ptr %mutex)\n",
        "unlock": "  call i32 @pthread_mutex_unlock(ptr %mutex)\n",
        "trylock": "  %took = call i32 @pthread_mutex_trylock(ptr %mutex)\n"
        "  %free = icmp eq i32 %took, 0\n",
        "wait": "  call i32 @pthread_cond_wait(ptr %cond, ptr %mutex)\n",
        "wake": "  call i32 @pthread_cond_broadcast(ptr %cond)\n",
    }


def waiting() -> tuple[str, dict[str, str]]:
    """How a thread waits: the declarations, and the instructions that pause the core, that yield it
    to another thread, and that sleep for a moment.
    """
    _, features = jit.host_features()
    declared = "declare i32 @sched_yield()\ndeclare i32 @usleep(i32)\n"
    calls = {"pause": "", "yield": "call i32 @sched_yield()", "nap": f"call i32 @usleep(i32 {NAP})"}
    if sys.platform == "win32":  # whose shortest sleep is a tick of the clock, many milliseconds
        declared = "declare i32 @SwitchToThread()\n"
        calls |= dict.fromkeys(("yield", "nap"), "call i32 @SwitchToThread()")
    if "neon" in features:
        declared += "declare void @llvm.aarch64.hint(i32)\n"
        calls["pause"] = "call void @llvm.aarch64.hint(i32 1)"
    elif "sse2" in features:
        declared += "declare void @llvm.x86.sse2.pause()\n"
        calls["pause"] = "call void @llvm.x86.sse2.pause()"
    return declared, {name: f"  {call}\n" for name, call in calls.items()}


def _text() -> str:
    """The runtime: ``serve`` parks threads, ``run`` executes steps."""
    declared, waits = waiting()
    return filled(_RUNTIME, _system() | waits) + cores.functions() + declared


def filled(text: str, lines: Mapping[str, str]) -> str:
    """A text with each ``<name>`` replaced by its lines."""
    for name, line in lines.items():
        text = text.replace(f"<{name}>\n", line)
    return text


_JOB = "".join(
    _field(n, at)
    for n, at in (
        ("next", NEXT),
        ("pcode", CODE),
        ("pargs", ARGS),
        ("ptiles", TILES),
        ("pclaim", CLAIM),
        ("pscratch", SCRATCH),
        ("pstride", STRIDE),
    )
)
_WAIT = _field("mutex", MUTEX) + _field("cond", CONDITION)

_RUNTIME = f"""<declare>

define internal void @work(ptr %state, i64 %number, ptr %since) {{
{_JOB}
  %code = load ptr, ptr %pcode
  %args = load ptr, ptr %pargs
  %tiles = load i64, ptr %ptiles
  %claim = load i64, ptr %pclaim
  %base = load ptr, ptr %pscratch
  %stride = load i64, ptr %pstride
  %offset = mul i64 %stride, %number
  %scratch = getelementptr i8, ptr %base, i64 %offset
  br label %more
more:
  %first = atomicrmw add ptr %next, i64 %claim monotonic
  %some = icmp slt i64 %first, %tiles
  br i1 %some, label %do, label %none
do:
  %past = add i64 %first, %claim
  %last = call i64 @llvm.smin.i64(i64 %past, i64 %tiles)
  call void %code(ptr %args, i64 %first, i64 %last, ptr %scratch)
  %posts = icmp eq ptr %since, null
  br i1 %posts, label %more, label %serves
serves:
  %long = call i1 @long(ptr %since)
  br i1 %long, label %none, label %more
none:
  ret void
}}
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)

define internal void @start(ptr %state) {{
{_WAIT}
<init>
  ret void
}}

define internal void @wake(ptr %state) {{
{_WAIT}
<trylock>
  br i1 %free, label %rouse, label %held
rouse:
<wake>
<unlock>
  ret void
held:
  ret void
}}

define internal void @stop(ptr %state) {{
{_WAIT}
{_field("pstop", STOP)}
<lock>
  store atomic i64 1, ptr %pstop seq_cst, align 8
  %o = atomicrmw add ptr %state, i64 1 seq_cst
<wake>
<unlock>
  ret void
}}

define internal void @serve(ptr %state, i64 %number, i64 %spins) {{
entry:
  %all = alloca [{cores.MASK} x i8], align 8
  %others = alloca [{cores.MASK} x i8], align 8
  %since = alloca i64
  %begun = call i64 @now()
  store i64 %begun, ptr %since
{_WAIT}
{_field("gate", GATE)}
{_field("sleepers", SLEEPERS)}
{_field("pstop", STOP)}
{_field("plimit", LIMIT)}
{_field("pplace", PLACE)}
  br label %idle
idle:
  %seen = phi i64 [0, %entry], [%epoch, %shut], [%epoch, %leave], [0, %rest]
  br label %look
look:
  %n = phi i64 [0, %idle], [%n2, %again], [0, %slept]
  %epoch = load atomic i64, ptr %state seq_cst, align 8
  %changed = icmp ne i64 %epoch, %seen
  br i1 %changed, label %called, label %nothing
nothing:
  %tired = icmp uge i64 %n, %spins
  br i1 %tired, label %sleep, label %again
again:
<pause>
  %n2 = add i64 %n, 1
  br label %look
sleep:
  call void @aside(ptr %all, ptr %others, ptr %pplace)
<lock>
  %s1 = atomicrmw add ptr %sleepers, i64 1 seq_cst
  br label %check
check:
  %now = load atomic i64, ptr %state seq_cst, align 8
  %still = icmp eq i64 %now, %seen
  br i1 %still, label %wait, label %slept
wait:
<wait>
  br label %check
slept:
  %s2 = atomicrmw sub ptr %sleepers, i64 1 seq_cst
<unlock>
  call void @back(ptr %all, ptr %others)
  %woken = call i64 @now()
  store i64 %woken, ptr %since
  br label %look
called:
  %stop = load atomic i64, ptr %pstop seq_cst, align 8
  %bye = icmp ne i64 %stop, 0
  br i1 %bye, label %out, label %where
where:
  %here = call i64 @here()
  %place = load atomic i64, ptr %pplace monotonic, align 8
  %crowded = icmp eq i64 %here, %place
  br i1 %crowded, label %part, label %enter
part:
  call void @aside(ptr %all, ptr %others, ptr %pplace)
  call void @back(ptr %all, ptr %others)
  br label %enter
enter:
  %inside = load atomic i64, ptr %gate acquire, align 8
  %bit = and i64 %inside, 4294967296
  %open = icmp ne i64 %bit, 0
  br i1 %open, label %try, label %shut
shut:
  br label %idle
try:
  %plus = add i64 %inside, 1
  %swap = cmpxchg ptr %gate, i64 %inside, i64 %plus seq_cst seq_cst
  %in = extractvalue {{i64, i1}} %swap, 1
  br i1 %in, label %allowed, label %enter
allowed:
  %limit = load i64, ptr %plimit
  %may = icmp slt i64 %number, %limit
  br i1 %may, label %do, label %leave
do:
  call void @work(ptr %state, i64 %number, ptr %since)
  br label %leave
leave:
  %o = atomicrmw sub ptr %gate, i64 1 release
  %long = call i1 @long(ptr %since)
  br i1 %long, label %rest, label %idle
rest:
<yield>
  %rested = call i64 @now()
  store i64 %rested, ptr %since
  br label %idle
out:
  ret void
}}

define internal void @share(ptr %state, ptr %code, ptr %args, i64 %tiles, i64 %threads,
                            ptr %scratch, i64 %stride) {{
entry:
{_JOB}
{_field("gate", GATE)}
{_field("owner", OWNER)}
{_field("sleepers", SLEEPERS)}
{_field("plimit", LIMIT)}
{_field("pplace", PLACE)}
  %swap = cmpxchg ptr %owner, i64 0, i64 1 acquire monotonic
  %mine = extractvalue {{i64, i1}} %swap, 1
  br i1 %mine, label %post, label %alone
alone:
  call void %code(ptr %args, i64 0, i64 %tiles, ptr %scratch)
  ret void
post:
  store ptr %code, ptr %pcode
  store ptr %args, ptr %pargs
  store i64 %tiles, ptr %ptiles
  %cuts = mul i64 %threads, {CLAIMS}
  %share = udiv i64 %tiles, %cuts
  %claim = call i64 @llvm.smax.i64(i64 %share, i64 1)
  store i64 %claim, ptr %pclaim
  store ptr %scratch, ptr %pscratch
  store i64 %stride, ptr %pstride
  store i64 %threads, ptr %plimit
  %place = call i64 @here()
  store atomic i64 %place, ptr %pplace monotonic, align 8
  store atomic i64 0, ptr %next monotonic, align 8
  store atomic i64 4294967296, ptr %gate seq_cst, align 8
  %e = atomicrmw add ptr %state, i64 1 seq_cst
  %asleep = load atomic i64, ptr %sleepers seq_cst, align 8
  %some = icmp ne i64 %asleep, 0
  br i1 %some, label %rouse, label %begin
rouse:
  call void @wake(ptr %state)
  br label %begin
begin:
  call void @work(ptr %state, i64 0, ptr null)
  %shut = atomicrmw and ptr %gate, i64 4294967295 seq_cst
  br label %watch
{watched("begin", "gate", "eq i64 %seen, 0")}
end:
  store atomic i64 0, ptr %owner release, align 8
  ret void
}}

define internal i64 @run(ptr %call) {{
entry:
  %steps = load ptr, ptr %call
{_word("first", 1)}
{_word("last", 2)}
{_word("state", 3, "ptr")}
{_word("threads", 4)}
{_word("scratch", 5, "ptr")}
{_word("stride", 6)}
  br label %head
head:
  %i = phi i64 [%first, %entry], [%i2, %next], [%to, %jump]
  %left = phi i64 [{BACK}, %entry], [%left, %next], [%left2, %jump]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %step, label %done
step:
  %word = mul i64 %i, {STEP_WORDS}
  %at = getelementptr i64, ptr %steps, i64 %word
  %code = load ptr, ptr %at
  %pa = getelementptr i64, ptr %at, i64 1
  %args = load ptr, ptr %pa
  %pt = getelementptr i64, ptr %at, i64 2
  %tiles = load i64, ptr %pt
  %some = icmp ne ptr %code, null
  br i1 %some, label %kernel, label %maybe
kernel:
  %few = icmp slt i64 %tiles, 2
  %one = icmp slt i64 %threads, 2
  %alone = or i1 %few, %one
  br i1 %alone, label %here, label %shared
here:
  call void %code(ptr %args, i64 0, i64 %tiles, ptr %scratch)
  br label %next
shared:
  call void @share(ptr %state, ptr %code, ptr %args, i64 %tiles, i64 %threads, ptr %scratch,
                   i64 %stride)
  br label %next
maybe:
  %always = icmp eq i64 %tiles, 0
  br i1 %always, label %jump, label %ask
ask:
  %condition = load ptr, ptr %args
  %byte = load i8, ptr %condition
  %no = icmp eq i8 %byte, 0
  br i1 %no, label %jump, label %next
jump:
  %pn = getelementptr i64, ptr %at, i64 3
  %to = load i64, ptr %pn
  %back = icmp sle i64 %to, %i
  %spent = zext i1 %back to i64
  %left2 = sub i64 %left, %spent
  %out = icmp slt i64 %to, %first
  %tired = icmp eq i64 %left2, 0
  %leave = or i1 %out, %tired
  br i1 %leave, label %done, label %head
next:
  %i2 = add i64 %i, 1
  br label %head
done:
  %reached = phi i64 [%i, %head], [%to, %jump]
  ret i64 %reached
}}
"""
