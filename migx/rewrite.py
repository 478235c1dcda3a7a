"""Rewrite rules, and the driver that applies them.

    @rule(on(ops.Transpose, on(ops.Transpose, var("x"), name="inner"), name="outer"))
    def merge(at: Cursor, x: Instruction, inner: Instruction, outer: Instruction) -> Instruction:
        ...

A rule's parameters name what its pattern caught; ``at`` is the cursor, which inserts before the
match. A parameter with a default may have the name of an option of the pass, and is given its
value. A rule returns the replacement of the match, or None or ``Declined("why")`` to decline. ``+``
adds rules to sets; ``rewrite`` applies a set until nothing changes.
"""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeAlias

from migx.builders import Builder
from migx.dead_code import remove_dead_code, remove_unread
from migx.errors import IRError, RewriteLoop, ShapeError
from migx.events import Event, EventLog
from migx.ir import Instruction, Module, merged
from migx.match import Match, On, OneOf, Pattern, Skip, expect_patterns, nothing_left
from migx.op import Operation
from migx.ops.builtin import GetTupleElem
from migx.text import Names, draw_instruction
from migx.weights import value_of
from migx.weights.constants import tree

KINDS = 4096
"""Most kinds of instructions (their operation and those of their inputs) a rule set caches."""

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

MANY = 8
"""An instruction with more users than this passes a change on only in the next full sweep."""


@dataclass(frozen=True)
class Declined:
    """A rule's reason for doing nothing although its pattern matches."""

    reason: str


Results: TypeAlias = Instruction | tuple[Instruction, ...] | dict[Instruction, Instruction]
"""The replacement of a match: of its root, of each result of the root, or of each instruction that
the rule names.
"""


class Cursor(Builder):
    """The place where a rule inserts: just before its match. Calling it adds an instruction.

    What it adds has the origins of everything that was matched.
    """

    place: Instruction

    def __init__(self, match: Match, root: Instruction, module: Module) -> None:
        super().__init__(module, root)
        self.root, self._matched = root, match.instructions
        self.made: list[Instruction] = []
        self.replaced: dict[Instruction, Instruction] = {}
        self._moved: list[tuple[Instruction, Instruction]] = []  # each with its old successor
        self._revision = module.program.revision

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of everything the rule matched."""
        if not self._origins:
            self._origins = merged(*(i.origins for i in self._matched))
        return self._origins

    def __call__(
        self, op: Operation, *inputs: Instruction, modules: Sequence[Module] = ()
    ) -> Instruction:
        self.made.append(super().__call__(op, *inputs, modules=modules))
        return self.made[-1]

    def together(self, instructions: Iterable[Instruction]) -> None:
        """Moves the insertion point before the first of some instructions of the module, all of
        which will be replaced, and adds their origins.
        """
        self._origins = merged(self.origins, *(i.origins for i in instructions))
        for each in instructions:
            self.place = each if each.before(self.place) else self.place

    def bring(self, constant: Instruction) -> Instruction:
        """Moves a constant, and what it is computed from, before the insertion point."""
        if not constant.before(self.place):
            for at in tree(constant):
                if not at.before(self.place):
                    self._moved.append((at, self._after(at)))
                    self.module.move_instruction(at, self.place)
        return constant

    def _after(self, at: Instruction) -> Instruction:
        """The next instruction after one that was not added by this rule."""
        return next(after for after in self.module.following(at) if after not in self.made)

    @property
    def is_idle(self) -> bool:
        """Whether the program is unchanged since the cursor was made."""
        return self.module.program.revision == self._revision

    def take_back(self, whose: str) -> None:
        """Undoes the additions and moves of a declining rule; ``IRError`` if it changed more."""
        program = self.module.program
        if program.revision != self._revision + len(self.made) + len(self._moved):
            raise IRError(
                f"rule {whose} replaced nothing, but edited the program other than by its cursor: "
                "a rule adds instructions by its cursor and returns the replacement; other edits "
                "belong in the method apply of a pass"
            )
        for made in reversed(self.made):
            self.module.remove_instruction(made)
        for moved, after in reversed(self._moved):
            self.module.move_instruction(moved, after)
        program.revision = self._revision


@dataclass(frozen=True)
class Rule:
    """A pattern and a function of what it caught; printed as its name and the pattern."""

    pattern: Pattern
    function: Callable[..., Results | Declined | None]
    wanted: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its function."""
        return _name(self.function)

    @property
    def source(self) -> str:
        """The file and line where it is defined; empty if it is not written in Python."""
        plain = _plain(self.function)
        code = getattr(plain, "__code__", None) or getattr(type(plain).__call__, "__code__", None)
        return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"

    def answer(self, given: Mapping[str, Any]) -> Results | Declined | None:
        """The result of its function, for what its pattern caught and the pass's options."""
        return self.function(**{name: given[name] for name in self.wanted if name in given})

    def __str__(self) -> str:
        return f"{self.name}: {self.pattern}"

    def __add__(self, other: Rule | RuleSet) -> RuleSet:
        return RuleSet(self) + other


def rule(pattern: Pattern) -> Callable[[Callable[..., Results | Declined | None]], Rule]:
    """Makes a rule of a function or other callable. A parameter that the pattern does not always
    catch is a ``TypeError``, unless it has a default; it may be an option of the pass, by its name.
    """
    expect_patterns((pattern,))

    def made(function: Callable[..., Results | Declined | None]) -> Rule:
        asked = inspect.signature(function).parameters
        required = {name for name, each in asked.items() if each.default is each.empty}
        if unknown := sorted(required - pattern.names() - {"at"}):
            raise TypeError(
                f"{_name(function)} asks for {', '.join(unknown)}, which its pattern does not"
                f" always catch; it catches {', '.join(sorted(pattern.names())) or 'nothing'}, and"
                " options of the pass are parameters with defaults"
            )
        if bare := [name for name, each in asked.items() if each.kind is each.POSITIONAL_ONLY]:
            raise TypeError(
                f"{_name(function)} must take {', '.join(bare)} by name, not before a /"
            )
        return Rule(pattern, function, tuple(asked))

    return made


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function without its wrappers."""
    while isinstance(function, partial):
        function = function.func
    plain: Callable[..., Any] = inspect.unwrap(function)
    return plain


def _name(function: Callable[..., Any]) -> str:
    plain = _plain(function)
    return str(getattr(plain, "__name__", type(plain).__name__))


class RuleSet:
    """Rules in order, indexed by the operations at the roots of their patterns."""

    def __init__(self, *rules: Rule | Iterable[Rule]) -> None:
        several = (each if isinstance(each, Iterable) else (each,) for each in rules)
        self.rules = tuple(chain.from_iterable(several))
        for each in self.rules:
            if not isinstance(each, Rule):
                raise TypeError(f"{each!r} is no rule; @rule(pattern) makes one of a function")
        self.depth = max((_depth(r.pattern) for r in self.rules), default=0)
        self._at = lru_cache(maxsize=KINDS)(self._found_at)
        self._plausible = lru_cache(maxsize=KINDS)(self._found_plausible)

    def at(self, name: str) -> tuple[Rule, ...]:
        """The rules that may match an operation of this name."""
        return self._at(name)

    def _found_at(self, name: str) -> tuple[Rule, ...]:
        return tuple(r for r in self.rules if name in (r.pattern.roots() or {name}))

    def plausible(self, at: Instruction) -> tuple[Rule, ...]:
        """The rules that may match an instruction, by its operation and those of its inputs."""
        return self._plausible(at.op.name, *[value.op.name for value in at.inputs])

    def _found_plausible(self, name: str, *inputs: str) -> tuple[Rule, ...]:
        return tuple(r for r in self.at(name) if r.pattern.plausible(name, inputs))

    def __add__(self, other: Rule | RuleSet) -> RuleSet:
        return RuleSet(self.rules + (other.rules if isinstance(other, RuleSet) else (other,)))

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)


def _depth(pattern: Pattern) -> int:
    """How many edges from its root a pattern looks; wrappers count as three."""
    match pattern:
        case On(inputs=inputs):
            return 1 + max((_depth(p) for p in inputs or ()), default=0)
        case OneOf(choices=choices):
            return max(map(_depth, choices))
        case Skip(inner=inner):
            return 3 + _depth(inner)
        case _:
            return 0


def rewrite(
    module: Module,
    rules: RuleSet | Rule,
    pass_name: str = "",
    log: EventLog | None = None,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> bool:
    """Applies rules to a module to a fixpoint; returns whether any fired. Rules that have
    parameters for them get the ``options``.

    Each instruction is visited once, and again when something near it changes. ``RewriteLoop`` if
    rules undo each other forever.
    """
    if not isinstance(module, Module):
        raise TypeError(
            f"rules are applied to a module, such as program.main, not to {module!r:.60}"
        )
    given = rules if isinstance(rules, RuleSet) else RuleSet(rules)
    return _Driver(module, given, pass_name, log, options).run()


class _Driver:
    def __init__(
        self,
        module: Module,
        rules: RuleSet,
        pass_name: str,
        log: EventLog | None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> None:
        self.module, self.rules, self.pass_name, self.log = module, rules, pass_name, log
        self.options = options
        self.queue: deque[Instruction] = deque()
        self.queued: set[Instruction] = set()
        self.limit = 1000 + 20 * len(module)
        self.applied: list[str] = []
        self.match = Match(relied_on_by=pass_name)
        self.names: dict[Module, Names] = {}

    def run(self) -> bool:
        """Visits all instructions, and again as long as that changes anything: a rule may depend on
        more than the neighbours that are queued.
        """
        before = -1
        while before < len(self.applied):
            before = len(self.applied)
            self.names.clear()
            self.queue.extend(at for at in self.module if self.rules.at(at.op.name))
            self.queued.update(self.queue)
            self.drain()
            if len(self.applied) > before:
                # A dead user may have kept a value from having a single use.
                remove_dead_code(self.module)
        return bool(self.applied)

    def drain(self) -> None:
        """Applies rules until the worklist is empty."""
        module, queue, plausible = self.module, self.queue, self.rules.plausible
        while queue:
            at = queue.popleft()
            self.queued.discard(at)
            if at.module is module and at.users:
                for each in plausible(at):
                    if self.apply(each, at):
                        break

    def apply(self, each: Rule, root: Instruction) -> bool:
        """Tries one rule at one instruction; returns whether it changed anything."""
        match = self.match
        if not each.pattern.match(root, match, nothing_left):
            return False  # the pattern has released what it caught
        try:
            return self.fire(each, root, match)
        except Exception as error:
            of = f" of {self.pass_name}" if self.pass_name else ""
            where = f"in rule {each.name}{of}, {each.source}"
            error.add_note(draw_instruction(f"{where}, at", root) if root.module else where)
            raise
        finally:
            match.forget()

    def fire(self, each: Rule, root: Instruction, match: Match) -> bool:
        """Applies a rule's function to a match; returns whether that changed anything."""
        log = self.log
        key = "" if log is None else log.key(each.name, match.instructions or [root])
        if log is not None and key in log.skip:
            return False
        at = Cursor(match, root, self.module)
        match.caught["at"] = at
        matched = dict.fromkeys(reversed(match.instructions or [root]))
        before = "" if log is None else log.show(matched, self.names)
        result = each.answer({**self.options, **match.caught})
        if result is None and at.is_idle:  # the most frequent case
            return False
        readers = put(at, result)
        if isinstance(readers, Declined):
            at.take_back(each.name)
            return False
        others = [old for old in at.replaced if old not in matched]
        beside = log.show(others, self.names) if log is not None else ""
        self.names.clear()
        if log is not None:
            before = "\n".join(filter(None, (before, beside)))
            after = log.show(at.made, self.names)
            event = Event(key, self.pass_name, each.name, each.source, at.origins, before, after)
            log.add(event, dict.fromkeys((*at.made, *at.replaced.values())))
        self.settle(each, match, at, readers)
        self.names.clear()
        return True

    def settle(
        self, each: Rule, match: Match, at: Cursor, readers: dict[Instruction, None]
    ) -> None:
        """Records assumptions on weights, removes dead code, and queues the instructions at which a
        rule may now match.
        """
        self.applied.append(each.name)
        if len(self.applied) > self.limit:
            self.refuse_more(*at.replaced.values())
        for literal in match.values:
            value_of(literal, relied_on_by=self.pass_name)
        _, freed = remove_unread([*at.made, *at.replaced, at.root], self.module)
        # Losing a user matters only if one is left: patterns can ask for a single use, nothing
        # more.
        sole = [i for i in freed if len(i.users) == 1]
        self.look_again(sole)
        near = dict.fromkeys((*at.made, *readers, *(u for i in sole for u in i.users)))
        for _ in range(self.rules.depth):
            self.look_again(near)
            # Users of a widely used value wait for the next sweep, or the work would grow as n * n.
            near = dict.fromkeys(u for i in near if len(i.users) <= MANY for u in i.users)

    def refuse_more(self, *made: Instruction) -> None:
        """Raises ``RewriteLoop``, with the last replacement drawn."""
        counts = Counter(self.applied[-100:]).most_common(4)
        often = ", ".join(f"{name} ({count})" for name, count in counts)
        whose = self.pass_name or "this set"
        message = f"the rules of {whose} undo each other: {often}"
        if len(counts) == 1:
            message = f"rule {counts[0][0]} of {whose} matches its own results forever"
        raise RewriteLoop(draw_instruction(f"{message}; the last result is", made[-1]))

    def look_again(self, instructions: Iterable[Instruction]) -> None:
        for i in instructions:
            if i.module is self.module and i not in self.queued and self.rules.at(i.op.name):
                self.queued.add(i)
                self.queue.append(i)


def put(at: Cursor, result: Results | Declined | None) -> dict[Instruction, None] | Declined:
    """Replaces a rule's match by its result, all or nothing; returns the users, or why nothing was
    replaced.
    """
    if isinstance(result, Declined):
        return result
    pairs = _places(at.root, result)
    readers = dict.fromkeys(user for old in pairs for user in old.users)
    if not readers:
        return Declined("it replaces nothing" if pairs else "")
    try:
        at.module.replace_instructions(pairs)
    except ShapeError as error:
        return Declined(f"users of the result do not accept its layout: {error}")
    for new in pairs.values():
        new.origins = merged(new.origins, at.origins)
    at.replaced = pairs
    return readers


def _places(root: Instruction, result: Results | None) -> dict[Instruction, Instruction]:
    """The replacements, old to new; each of several results replaces its ``get_tuple_elem``."""
    if isinstance(result, dict):
        pairs = result
    elif isinstance(result, tuple):
        if len(result) != len(root.shape.parts):
            count = len(root.shape.parts) or "no tuple"
            raise IRError(f"{root.op.name} has results: {count}; the rule returned {len(result)}")
        elements = [u for u in root.users if isinstance(u.op, GetTupleElem)]
        pairs = {u: result[u.op_as(GetTupleElem).index] for u in elements}
    else:
        pairs = {} if result is None else {root: result}
    for given in (*pairs, *pairs.values()):
        if not isinstance(given, Instruction):
            raise TypeError(
                "a rule returns an instruction, a tuple of them, a dict from old ones to new, or "
                f"None to decline; this one returned {given!r}"
            )
    return {old: new for old, new in pairs.items() if new is not old}
