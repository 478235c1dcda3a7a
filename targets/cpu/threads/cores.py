"""How the pool's threads share cores with other work, as functions in LLVM IR.

The system may wake a thread on the core of its waker although another is free: on a virtual machine
an idle core looks busy. The two then take turns for milliseconds. So a thread that goes to sleep
excludes the core where work was last posted from its affinity until it is awake.

If a thread is preempted in the middle of a tile, everyone waits for that tile. So a thread that has
worked for a while yields while it holds none.

Both are done on Linux; elsewhere placement and preemption are left to the system.
"""

from __future__ import annotations

import sys

SPELL = 2_000_000
"""Nanoseconds that a thread works before it yields: less than the time slice, some 3 ms, that
systems give to a thread while another waits.
"""
MASK = 128
"""The bytes of a ``cpu_set_t``: 1,024 cores."""


def functions() -> str:
    """The definitions: ``here`` is the core of this thread; ``aside`` excludes the core whose
    number is in memory, and ``back`` undoes that, with room for two sets of cores; ``now`` is the
    time in nanoseconds, ``long`` whether a spell has passed since the time in memory.
    """
    here = _LINUX if sys.platform == "linux" else _ELSEWHERE
    return f"""{here}
define internal i1 @long(ptr %since) {{
  %now = call i64 @now()
  %from = load i64, ptr %since
  %spell = sub i64 %now, %from
  %long = icmp sgt i64 %spell, {SPELL}
  ret i1 %long
}}
"""


_ELSEWHERE = """
define internal i64 @here() {
  ret i64 -1
}

define internal void @aside(ptr %all, ptr %others, ptr %core) {
  ret void
}

define internal void @back(ptr %all, ptr %others) {
  ret void
}

define internal i64 @now() {
  ret i64 0
}
"""

_LINUX = f"""
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @clock_gettime(i32, ptr)
declare i32 @memcmp(ptr, ptr, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define internal i64 @here() {{
  %core = call i32 @sched_getcpu()
  %wide = sext i32 %core to i64
  ret i64 %wide
}}

define internal void @aside(ptr %all, ptr %others, ptr %pcore) {{
  store i64 0, ptr %others ; no core, which is no set that a thread has
  %failed = call i32 @sched_getaffinity(i32 0, i64 {MASK}, ptr %all)
  %given = icmp eq i32 %failed, 0
  %core = load atomic i64, ptr %pcore monotonic, align 8
  %known = icmp ult i64 %core, {8 * MASK}
  %both = and i1 %given, %known
  br i1 %both, label %go, label %stay
go:
  call void @llvm.memcpy.p0.p0.i64(ptr %others, ptr %all, i64 {MASK}, i1 false)
  %index = lshr i64 %core, 6
  %word = getelementptr i64, ptr %others, i64 %index
  %before = load i64, ptr %word
  %nth = and i64 %core, 63
  %bit = shl i64 1, %nth
  %rest = xor i64 %bit, -1
  %after = and i64 %before, %rest
  store i64 %after, ptr %word
  %went = call i32 @sched_setaffinity(i32 0, i64 {MASK}, ptr %others) ; fails where none is left
  br label %stay
stay:
  ret void
}}

define internal void @back(ptr %all, ptr %others) {{
  %now = alloca [{MASK} x i8], align 8
  %failed = call i32 @sched_getaffinity(i32 0, i64 {MASK}, ptr %now)
  %differ = call i32 @memcmp(ptr %now, ptr %others, i64 {MASK}) ; somebody else has set it since
  %either = or i32 %failed, %differ
  %ours = icmp eq i32 %either, 0
  br i1 %ours, label %go, label %stay
go:
  %went = call i32 @sched_setaffinity(i32 0, i64 {MASK}, ptr %all)
  br label %stay
stay:
  ret void
}}

define internal i64 @now() {{
  %time = alloca [2 x i64], align 8
  %failed = call i32 @clock_gettime(i32 1, ptr %time)
  %seconds = load i64, ptr %time
  %pn = getelementptr i64, ptr %time, i64 1
  %n = load i64, ptr %pn
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %n
  ret i64 %now
}}
"""
