"""The kernels between the steps of control flow: copies, and the counting of iterations."""

from __future__ import annotations

from migx.targets.cpu.kernel import Kernel


def text_of(words: str, body: str) -> str:
    """A kernel of one tile whose arguments have these names and types."""
    loads = "".join(
        f"  %at.{name} = getelementptr i64, ptr %args, i64 {index}\n"
        f"  %{name} = load {type_}, ptr %at.{name}\n"
        for index, (type_, name) in enumerate(word.split() for word in words.split(", "))
    )
    head = "define void @kernel(ptr %args, i64 %begin, i64 %end, ptr %scratch) {\nentry:\n"
    return f"{_DECLARED}{head}{loads}{body}}}\n"


_DECLARED = """declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)
declare i64 @llvm.smin.i64(i64, i64)
"""
COPY = Kernel(
    "copy",
    text_of(
        "ptr from, ptr to, i64 bytes",
        "  call void @llvm.memmove.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 0)\n  ret void\n",
    ),
    tiles=1,
)
"""From one place to another."""
SETTLE = Kernel(
    "copy",
    text_of(
        "ptr from, ptr index, ptr to, i64 bytes",
        """  %i = load i64, ptr %index
  %odd = trunc i64 %i to i1
  br i1 %odd, label %copy, label %done
copy:
  call void @llvm.memmove.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 0)
  br label %done
done:
  ret void
""",
    ),
    tiles=1,
)
"""From one place to another, after an odd number of iterations."""
ROW = Kernel(
    "row",
    text_of(
        "ptr from, ptr index, ptr to, i64 times, i64 bytes, i64 leap, i64 start, i64 step, "
        "i64 leap2, i64 start2, i64 step2",
        """  %i = load i64, ptr %index
  %s = mul i64 %i, %step
  %s2 = mul i64 %i, %step2
  %a = add i64 %start, %s
  %b = add i64 %start2, %s2
  br label %head
head:
  %k = phi i64 [0, %entry], [%k2, %copy]
  %more = icmp slt i64 %k, %times
  br i1 %more, label %copy, label %done
copy:
  %l = mul i64 %k, %leap
  %l2 = mul i64 %k, %leap2
  %x = add i64 %a, %l
  %y = add i64 %b, %l2
  %source = getelementptr i8, ptr %from, i64 %x
  %target = getelementptr i8, ptr %to, i64 %y
  call void @llvm.memmove.p0.p0.i64(ptr %target, ptr %source, i64 %bytes, i1 0)
  %k2 = add i64 %k, 1
  br label %head
done:
  ret void
""",
    ),
    tiles=1,
)
"""A number of pieces, which begin where an iteration's number says."""
_GO = """  %limited = icmp ne ptr %trips, null
  br i1 %limited, label %limit, label %go
limit:
  %asked = load i64, ptr %trips
  br label %go
go:
  %most = phi i64 [%capacity, %set], [%asked, %limit]
  %least = call i64 @llvm.smin.i64(i64 %most, i64 %capacity)
  %within = icmp slt i64 %number, %least
  %left = zext i1 %within to i8
  %on = and i8 %holds, %left
  store i64 %number, ptr %iteration
  store i8 %holds, ptr %condition
  store i8 %on, ptr %going
  ret void
"""
_STATE = "ptr trips, ptr given, ptr iteration, ptr condition, ptr going, i64 capacity"
_HOLDS = """  %conditional = icmp ne ptr %given, null
  br i1 %conditional, label %ask, label %set
ask:
  %byte = load i8, ptr %given
  br label %set
set:
  %holds = phi i8 [1, %entry], [%byte, %ask]
"""
BEGIN = Kernel(
    "loop",
    text_of(_STATE, _HOLDS + "  %number = add i64 0, 0\n" + _GO),
    tiles=1,
)
"""The state of a loop before its first iteration."""
AGAIN = Kernel(
    "loop",
    text_of(
        _STATE,
        _HOLDS + "  %was = load i64, ptr %iteration\n  %number = add i64 %was, 1\n" + _GO,
    ),
    tiles=1,
)
"""The state of a loop after an iteration, which gives the condition."""
COUNT = Kernel(
    "loop",
    text_of(
        "ptr iteration, i64 fault, i64 expected",
        """  %count = load i64, ptr %iteration
  %wrong = icmp ne i64 %count, %expected
  br i1 %wrong, label %fail, label %done
fail:
  store i64 1, ptr %at.fault
  br label %done
done:
  ret void
""",
    ),
    tiles=1,
    fault="the loop ends after another number of iterations than the dims of its results say",
)
"""That a loop has run as often as the dims of its scan outputs say."""
REFUSED = Kernel(
    "refused",
    text_of("i64 fault", "  store i64 1, ptr %at.fault\n  ret void\n"),
    tiles=1,
    words=(0,),
)
"""That a module has been chosen which cannot be run with these sizes."""
ROUNDS = Kernel(
    "rounds",
    text_of(
        "ptr code, i64 words, i64 room, i64 times, i64 moved",
        """  %bytes = mul i64 %words, 8
  %entries = getelementptr i64, ptr %args, i64 5
  %skipped = mul i64 %moved, 3
  %given = getelementptr i64, ptr %entries, i64 %skipped
  %rest = getelementptr i8, ptr %scratch, i64 %room
  br label %tiles
tiles:
  %tile = phi i64 [%begin, %entry], [%next, %round]
  %next = add i64 %tile, 1
  %some = icmp slt i64 %tile, %end
  br i1 %some, label %own, label %done
own:
  call void @llvm.memmove.p0.p0.i64(ptr %scratch, ptr %given, i64 %bytes, i1 0)
  br label %move
move:
  %by = phi i64 [1, %own], [2, %call]
  %number = phi i64 [0, %own], [%following, %call]
  br label %each
each:
  %k = phi i64 [0, %move], [%k2, %one]
  %more = icmp slt i64 %k, %moved
  br i1 %more, label %one, label %round
one:
  %k2 = add i64 %k, 1
  %place = mul i64 %k, 3
  %operand.at = getelementptr i64, ptr %entries, i64 %place
  %operand = load i64, ptr %operand.at
  %by.at = getelementptr i64, ptr %operand.at, i64 %by
  %far = load i64, ptr %by.at
  %word.at = getelementptr i64, ptr %scratch, i64 %operand
  %was = load i64, ptr %word.at
  %is = add i64 %was, %far
  store i64 %is, ptr %word.at
  br label %each
round:
  %again = icmp slt i64 %number, %times
  br i1 %again, label %call, label %tiles
call:
  %following = add i64 %number, 1
  call void %code(ptr %scratch, i64 %tile, i64 %next, ptr %rest)
  br label %move
done:
  ret void
""",
    ),
    tiles=1,
)
"""A kernel whose tiles are each done a number of times, one after another, with operands that are
moved in between: in a copy of the words of that kernel, which stand behind its own.
"""
JUMP = Kernel("jump", "", tiles=0)
UNLESS = Kernel("jump", "", tiles=1)
KERNELS = (COPY, SETTLE, ROW, BEGIN, AGAIN, COUNT, REFUSED, ROUNDS)
"""Those that have code."""
