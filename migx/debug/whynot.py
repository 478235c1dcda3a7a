"""Why a rule does not apply somewhere: how far its pattern matches there, and what refused.

cls, rule = rule_named("simplify_reshapes.nop_reshapes")
for answer in why_not(program, cls, rule, "dense1"):
    print(answer)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from migx import plugins
from migx.errors import IRError, UnknownName, there_are
from migx.events import Event, EventLog
from migx.fields import required
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.match import Match, Pattern, find
from migx.ops.builtin import Param, Return
from migx.program import Program
from migx.rewrite import Cursor, Declined, Rule, put
from migx.text import number, show_instruction


@dataclass(frozen=True)
class Answer:
    """The outcome of a rule at one instruction.

    ``verdict`` is ``fires``, ``refused`` (by the pattern), ``declined`` (by the rule's function) or
    ``no such operation``. ``said_no`` is the part of the pattern that refused, ``reason`` why, and
    ``drawn`` shows in the text what matched, marked by ``>``, and what was refused, by ``^``.
    """

    verdict: str
    at: str
    reason: str
    said_no: str = ""
    drawn: str = ""

    def __str__(self) -> str:
        asked = f", asked for: {self.said_no}" if self.said_no else ""
        head = f"{self.at}: {self.verdict}: {self.reason}{asked}"
        return f"{head}\n{self.drawn}" if self.drawn else head


@dataclass(frozen=True)
class _Refusal:
    """A pattern that refused, and how far the match had come."""

    pattern: Pattern
    at: Instruction
    reason: str
    matched: tuple[Instruction, ...]
    caught: int

    @property
    def depth(self) -> tuple[int, int]:
        # The right operation with a wrong attribute or use count is closer than another operation.
        fits = self.at.op.name in (self.pattern.roots() or ())
        return len(self.matched) + fits, self.caught


def rule_named(name: str) -> tuple[type[Pass], Rule]:
    """The pass and the rule with a name such as ``simplify_reshapes.nop_reshapes``; ``UnknownName``
    lists those that exist.
    """
    of, dot, which = name.partition(".")
    passes = plugins.names("passes")
    if not dot and of not in passes:
        every = (known for each in passes for known in _rules(plugins.load("passes", each)))
        raise UnknownName(f"a rule is named as PASS.RULE, not {name!r}; {there_are(name, every)}")
    cls: type[Pass] = plugins.load("passes", of)
    return cls, _rule(cls, which if dot else "")


def _rule(cls: type[Pass], name: str) -> Rule:
    for each in cls.rules:
        if each.name == name:
            return each
    names = _rules(cls)
    if not names and not required(cls) and (inner := cls().pipeline()) is not None:
        others = dict.fromkeys(each.name for each in inner.passes() if each.rules)
        raise UnknownName(
            f"pass {cls.name} stands for others: name a rule of one of them, {', '.join(others)}"
        )
    if not names:
        raise UnknownName(
            f"pass {cls.name} is a function and has no rules to ask; each change it makes is shown "
            f"by migx opt MODEL --passes {cls.name} --trace"
        )
    if not name:
        raise UnknownName(f"name a rule of pass {cls.name}; {there_are('', names)}")
    raise UnknownName(
        f"pass {cls.name} has no rule {name!r}; {there_are(f'{cls.name}.{name}', names)}"
    )


def _rules(cls: type[Pass]) -> list[str]:
    """The full names of a pass's rules."""
    return [f"{cls.name}.{each.name}" for each in cls.rules]


def why_not(
    program: Program,
    of: type[Pass] | str,
    rule: Rule | str,
    where: Instruction | str | None = None,
) -> list[Answer]:
    """The outcome of a rule of a pass at an instruction, or at all with a name, and at their users
    as far as the pattern reaches; without ``where``, wherever the pattern may begin, deepest
    partial matches first. The program is unchanged.

    The pass is given by its class or its name, the rule as such or by its name, ``nop_reshapes`` or
    ``simplify_reshapes.nop_reshapes``.
    """
    cls: type[Pass] = plugins.load("passes", of) if isinstance(of, str) else of
    if isinstance(rule, str):
        rule = _rule(cls, rule.removeprefix(f"{cls.name}."))
    if where is None:
        roots = [at for at in program.instructions() if _may_begin(rule, at)]
        found = [_answer(cls, rule, at) for at in roots]
        return [answer for answer, _ in sorted(found, key=lambda each: -len(each[1]))]
    starts, name = _asked(program, where)
    reach = cls.rules.depth
    roots = [at for at in _readers(starts, reach) if _may_begin(rule, at)]
    if not roots:
        names = sorted({at.op.name for at in starts})
        wanted = " or ".join(sorted(rule.pattern.roots() or ()))
        reason = f"{rule.name} begins at {wanted}; here is {', '.join(names)}, and none reads it"
        return [Answer("no such operation", name, reason)]
    answers = [_answer(cls, rule, at) for at in roots]
    # A user is of interest only if the match there reaches what was asked about.
    asked = [(at, a, seen) for at, (a, seen) in zip(roots, answers, strict=True)]
    near = [a for at, a, seen in asked if at in starts or seen & set(starts)]
    return near or [a for _, a, _ in asked]


def _asked(program: Program, where: Instruction | str) -> tuple[list[Instruction], str]:
    """The instructions asked about, and their description."""
    if isinstance(where, str):
        return program.named(where), where
    if where.owner.program is not program:
        raise IRError(f"{where!r} is neither a name nor an instruction of the program")
    return [where], _name(where)


def fired(program: Program, of: Pass, rule: Rule) -> list[Event]:
    """The events of a rule when its whole pass runs on a copy of a program."""
    log = EventLog()
    PassManager(program.copy(), log=log).run([of])
    return [event for event in log.events if event.rule == rule.name]


def _readers(starts: Iterable[Instruction], reach: int) -> dict[Instruction, None]:
    """Some instructions and their users, up to ``reach`` steps away."""
    found = dict.fromkeys(starts)
    last = list(found)
    for _ in range(reach):
        last = [u for at in last for u in at.users if u not in found]
        found |= dict.fromkeys(last)
    return found


def _may_begin(rule: Rule, at: Instruction) -> bool:
    roots = rule.pattern.roots()
    return type(at.op) not in (Param, Return) and (roots is None or at.op.name in roots)


def _answer(cls: type[Pass], rule: Rule, root: Instruction) -> tuple[Answer, set[Instruction]]:
    """The outcome of a rule at an instruction, and what its pattern looked at."""
    module, refusals = root.owner, list[_Refusal]()
    match = Match(relied_on_by=cls.name)

    def refused(pattern: Pattern, at: Instruction, reason: str) -> None:
        matched = tuple(match.instructions)
        refusals.append(_Refusal(pattern, at, reason, matched, len(match.caught)))

    match.refused = refused
    where = _name(root)
    if not root.users or module.bypass:
        why = "it has no users" if not root.users else f"module {module.name} is marked bypass"
        return Answer("refused", where, f"{why}, so no rule is tried"), {root}
    if find(rule.pattern, root, match) is None:
        # The first of the deepest refusals: they are in the order of the pattern.
        unsaid = _Refusal(rule.pattern, root, "does not match", (), 0)
        worst = max(refusals, key=lambda each: each.depth, default=unsaid)
        drawn = draw(worst.matched, worst.at, worst.reason)
        seen = {root, *worst.matched, worst.at}
        reason = f"{_name(worst.at)} {worst.reason}"
        return Answer("refused", where, reason, str(worst.pattern), drawn), seen
    caught = [value for value in match.caught.values() if isinstance(value, Instruction)]
    seen = {root, *match.instructions, *caught}
    drawn = draw(match.instructions or [root])
    verdict, reason = _tried(rule, root, cls.name)
    if verdict == "fires":
        before = cls.rules.at(root.op.name)
        first = next((o for o in before[: before.index(rule)] if _fires(o, root, cls.name)), None)
        reason += f"; {first.name} comes first and fires here too" if first else ""
    return Answer(verdict, where, reason, drawn=drawn), seen


def _tried(rule: Rule, root: Instruction, pass_name: str) -> tuple[str, str]:
    """The verdict and reason of a rule's function for a match; it is called on a copy."""
    at = _copied(root)
    module = at.owner
    match = find(rule.pattern, at, Match(relied_on_by=pass_name))
    if match is None:
        return "refused", "its pattern does not match"
    cursor = Cursor(match, at, module)
    outcome = put(cursor, rule.answer({**match.caught, "at": cursor}))
    if isinstance(outcome, Declined):
        unsaid = f"the pattern matches, and the rule gives no reason ({rule.source})"
        return "declined", outcome.reason or unsaid
    made = ", ".join(i.op.name for i in cursor.made) or "what it reads already"
    return "fires", f"it becomes {made}"


def _fires(rule: Rule, root: Instruction, pass_name: str) -> bool:
    return _tried(rule, root, pass_name)[0] == "fires"


def _copied(at: Instruction) -> Instruction:
    """The same instruction in a copy of its program."""
    module = at.owner
    twin = module.program.copy().modules[module.name]
    return next(b for a, b in zip(module, twin, strict=True) if a is at)


def draw(
    matched: Sequence[Instruction], refused: Instruction | None = None, reason: str = ""
) -> str:
    """The lines of the text that a match covers, with ``>`` at those that matched, and a caret with
    the reason under the one that was refused.
    """
    lines = {at: _line(at) for at in matched}
    if refused is not None:
        lines[refused] = _line(refused)
    rows = []
    for at in sorted(lines, key=lambda at: (at.owner.name != "main", at._label)):
        line = lines[at]
        rows.append(f"{'>' if at in matched else ' '} {line}")
        if at is refused:
            column = 0 if type(at.op) is Param else line.index("= ") + 2
            width = len(_name(at) if type(at.op) is Param else at.op.name)
            rows.append(f"  {' ' * column}{'^' * width} {reason}")
    return "\n".join(rows)


def _line(at: Instruction) -> str:
    """An instruction's line in the text of its module."""
    if type(at.op) is Param:
        return f"{number(at.owner)[at]}: {at.shape}"
    return show_instruction(at, origins=False)


def _name(at: Instruction) -> str:
    """The name of an instruction in the text, prefixed by its module unless that is main."""
    module = at.owner
    name = number(module).get(at, "return")
    return name if module is module.program.main else f"{module.name}:{name}"
