"""Outlining: moves instructions into the modules of ``pointwise``, ``fused_reduce`` and ``group``.

``outline`` takes all the bundles a pass has found, each with any number of results, and reorders
the module so that every bundle is contiguous.

What a bundle reads becomes a parameter of its module, in standard layout. Three things are copied
into the module instead: views of values inside, fixed literals of one element, and broadcasts of
these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from migx import op as operations
from migx.dead_code import is_pure, remove_dead_code, remove_unread
from migx.errors import IRError
from migx.events import Event, EventLog
from migx.ir import Instruction, Module, merged
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.builtin import GetTupleElem, Literal
from migx.ops.fused import Fused
from migx.planning import source, viewed
from migx.sizes import known_symbols, symbols_in, symbols_of
from migx.verify import captures_of

BROADCASTS = frozenset({"multibroadcast", "broadcast"})
SAME_ORDER = frozenset({"reshape", "squeeze", "unsqueeze"})


@dataclass(eq=False)
class Bundle:
    """Instructions of a module that become one, and its operation. Members are in the order of the
    module, however they are given.

    A subclass may replace them by something else than one instruction with a module.
    """

    members: Sequence[Instruction]
    op: Operation

    def __post_init__(self) -> None:
        self.members = sorted({*self.members}, key=lambda at: at._label)

    def prepare(self, around: Module) -> None:
        """Prepares for ``become``; called for all bundles, in order, before any is replaced."""
        self.inner = around.program.add_module(getattr(self.op, "tag", self.op.name), bypass=True)

    def become(self, following: Instruction) -> dict[Instruction, Instruction]:
        """Adds the replacement of the members before the given instruction; returns what replaces
        each value that is read elsewhere.
        """
        module = following.owner
        inputs, results = _Inside(self.inner, self.members).finished()
        made = module.insert_instruction(
            following, self.op, *inputs, modules=[self.inner], origins=self.origins
        )
        if len(results) == 1:
            return {results[0]: made}
        return {
            old: module.insert_instruction(following, GetTupleElem(i), made, origins=old.origins)
            for i, old in enumerate(results)
        }

    @property
    def last(self) -> Instruction:
        """The last member, before which everything the bundle reads is available."""
        return self.members[-1]

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of all members."""
        return merged(*(m.origins for m in self.members))


class Outlining(Pass):
    """Base class of passes that outline the ``bundles`` they find in a module."""

    def bundles(self, module: Module) -> list[Bundle]:
        """The bundles in a module."""
        raise NotImplementedError(f"pass {self.name} finds no bundles")

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Outlines the bundles. Dead code is removed first, because it counts as a user."""
        cleaned = remove_dead_code(module) > 0
        return outline(module, self.bundles(module), self.name, manager.log) or cleaned


def keeps_order(value: Instruction) -> bool:
    """Whether a value is a view with the elements in order, whose dims are attributes."""
    return value.op.name in SAME_ORDER and len(value.inputs) == 1


def dependences(module: Module) -> Iterator[tuple[Instruction, list[Instruction]]]:
    """Each instruction, in order, with those that must come before it in its module: what it or its
    submodules read, the first to tell the size of a symbol it has, and the previous one with
    effects if it has effects itself.
    """
    effect: Instruction | None = None
    told = known_symbols(module)
    is_late = any(not symbols_in(shape) <= told for shape in {at.shape for at in module})
    teller: dict[str, Instruction] = {}
    for at in module:
        before = list(at.inputs)
        if is_late and (late := symbols_of(at) - told):
            before += [teller[name] for name in sorted(late) if name in teller]
            teller |= {name: at for name in late if name not in teller}
        if at.modules and not isinstance(at.op, Fused):
            before += captures_of(at)
        plain = operations.traits(at.op).pure and not at.modules
        if not plain and at.op.name != "@param" and not is_pure(at):
            before += [effect] if effect is not None else []
            effect = at
        yield at, [value for value in before if value.module is module]


def outline(
    module: Module, bundles: Sequence[Bundle], pass_name: str = "", log: EventLog | None = None
) -> bool:
    """Replaces each bundle by what it becomes; returns whether there was anything to do.

    The replacement is placed where the last member was, and earlier users move behind it;
    everything else keeps its place. A bundle must not depend on itself through instructions
    outside: ``IRError`` otherwise. Linear in the size of the module. Bundles whose events the log
    skips are unchanged.
    """
    kept: dict[Bundle, str] = {}
    bundle_of: dict[Instruction, Bundle] = {}
    for each in bundles:
        key = "" if log is None else log.key(each.op.name, each.members)
        inside = set(_results(each.members))
        skipped = log is not None and key in log.skip
        if not skipped and any(read_outside(v, inside) for v in inside if not v.shape.parts):
            kept[each] = key
            each.prepare(module)
            bundle_of |= dict.fromkeys(inside | _own_views(module, each, inside), each)
    if not kept:
        return False
    order = _Order(module, bundle_of).found()
    following = next(reversed(module))
    for unit in reversed(order[:-1]):
        if isinstance(unit, Bundle):
            before = "" if log is None else log.show(unit.members, {})
            made = _put(unit, following, bundle_of)
            if log is not None:
                event = (pass_name, unit.op.name, _HERE, unit.origins, before, log.show(made, {}))
                log.add(Event(kept[unit], *event), made)
            following = made[0]
        elif unit.module is module:
            if unit._next is not following:
                module.move_instruction(unit, following)
            following = unit
    return True


_HERE = f"{__file__}:{outline.__code__.co_firstlineno}"


def _put(
    bundle: Bundle, following: Instruction, bundle_of: dict[Instruction, Bundle]
) -> list[Instruction]:
    """Replaces the members of a bundle by what it becomes, before the instruction that follows;
    returns what was added.
    """
    module, before = following.owner, following._previous
    for old, new in bundle.become(following).items():
        for user in [u for u in old.users if bundle_of.get(u) is not bundle]:
            for place in [i for i, value in enumerate(user.inputs) if value is old]:
                user.owner.replace_input(user, place, new)
    made, at = list[Instruction](), following._previous
    while at is not before and isinstance(at, Instruction):
        made.insert(0, at)
        at = at._previous
    dead = dict.fromkeys(bundle.members)
    work = list(dead)
    while work:  # remaining users of members are members too, or dead views
        users = [u for u in work.pop().users if u not in dead]
        dead |= dict.fromkeys(users)
        work += users
    remove_unread(dead, module)
    return made


class _Inside:
    """The module of a bundle while it is built."""

    def __init__(self, inner: Module, members: Sequence[Instruction]) -> None:
        self.inner, self.members = inner, members
        self.own = set(_results(members))
        self.inputs: dict[Instruction, None] = {}
        self.inside: dict[Instruction, Instruction] = {}
        self.literals: dict[int, Instruction] = {}

    def finished(self) -> tuple[list[Instruction], list[Instruction]]:
        """The inputs of the module, and the outer values that it returns."""
        for member in self.members:
            if isinstance(member.op, Fused):
                self.inside |= self.dissolved(member, {v: self.value(v) for v in member.inputs})
            elif member not in self.inside:
                self.copy(member)
        results = [v for m in self.members for v in parts(m) if read_outside(v, self.own)]
        self.inner.add_return(*(self.inside[v] for v in results))
        return list(self.inputs), results

    def copy(self, at: Instruction) -> None:
        """Copies an instruction, with its inputs mapped to values inside."""
        inputs = [self.value(v) for v in at.inputs]
        self.inside[at] = self.inner.add_instruction(at.op, *inputs, origins=at.origins)

    def dissolved(
        self, at: Instruction, given: Mapping[Instruction, Instruction]
    ) -> dict[Instruction, Instruction]:
        """The inner values of a fused instruction or its parts: copies of its contents, with
        ``given`` for its inputs.
        """
        (body,) = at.modules
        known = {parameter: given[value] for parameter, value in operands(at).items()}
        for each in body:
            if type(each.op) is Literal:
                known[each] = self.literal(each)
            elif isinstance(each.op, Fused):
                known |= self.dissolved(each, known)
            elif each not in known and each.op.name != "@return":
                inputs = [known[v] for v in each.inputs]
                known[each] = self.inner.add_instruction(each.op, *inputs, origins=each.origins)
        results = _indexed(at, body.outputs)
        return {v: known[result] for v, result in zip(parts(at), results, strict=True)}

    def value(self, outside: Instruction) -> Instruction:
        """The inner value for an outer value."""
        if outside not in self.inside:
            if type(outside.op) is Literal and is_small(outside):
                self.inside[outside] = self.literal(outside)
            elif self.moves_in(outside):
                self.copy(outside)
            else:
                name = f"x{len(self.inputs)}"
                shape = outside.shape.as_standard()
                self.inside[outside] = self.inner.add_parameter(name, shape)
                self.inputs[outside] = None
        return self.inside[outside]

    def moves_in(self, view: Instruction) -> bool:
        """Whether a value is a view of one inside, or a broadcast of a literal to be copied."""
        narrow = True
        while (below := viewed(view)) is not None:
            narrow &= view.op.name in BROADCASTS
            if below in self.inside and below not in self.inputs:
                return True
            view = below
        return narrow and is_small(view)

    def literal(self, at: Instruction) -> Instruction:
        """The copy of a literal; literals that share an operation are copied once."""
        if id(at.op) not in self.literals:
            self.literals[id(at.op)] = self.inner.add_instruction(at.op, origins=at.origins)
        return self.literals[id(at.op)]


def operands(at: Instruction) -> dict[Instruction, Instruction]:
    """The inputs of a fused instruction, by the parameters of its module."""
    (body,) = at.modules
    return dict(zip(body.parameters.values(), at.inputs, strict=True))


def is_small(at: Instruction) -> bool:
    """Whether an instruction is a fixed literal of one element, which is cheap to copy; a packed
    one is storage like any other.
    """
    fixed = type(at.op) is Literal and not at.op.replaceable
    return fixed and at.shape.elements == 1 and not at.shape.dtype.is_packed


def only_reader(at: Instruction) -> Instruction | None:
    """The only user of an instruction, if it is in the same module; otherwise None."""
    if len(at.users) != 1:
        return None
    (reader,) = at.users
    return reader if reader.module is at.module else None


def parts(at: Instruction) -> list[Instruction]:
    """The instruction itself, or the ``get_tuple_elem`` of its result if that is a tuple."""
    if not at.shape.parts:
        return [at]
    return [u for u in at.users if type(u.op) is GetTupleElem and u.module is at.module]


def _results(members: Iterable[Instruction]) -> list[Instruction]:
    """Instructions and their parts."""
    return list(dict.fromkeys(v for m in members for v in (m, *parts(m))))


def _indexed(at: Instruction, results: Sequence[Instruction]) -> list[Instruction]:
    """The module results that correspond to each of ``parts``."""
    if not at.shape.parts:
        return list(results)
    return [results[u.op_as(GetTupleElem).index] for u in parts(at)]


def read_outside(value: Instruction, inside: Collection[Instruction]) -> bool:
    """Whether anything outside reads a value, directly or through views."""
    work = [value]
    while work:
        at = work.pop()
        for user in at.users:
            if user in inside:
                continue
            if viewed(user) is at and user.module is at.module:
                work.append(user)
            else:
                return True
    return False


def _own_views(module: Module, bundle: Bundle, inside: Collection[Instruction]) -> set[Instruction]:
    """The views of a bundle's values that are between its members; a view that others read too is
    copied for the bundle.
    """
    own: set[Instruction] = set()
    copies: dict[Instruction, Instruction] = {}
    for member in bundle.members:
        for index in range(len(member.inputs)):
            reader, place, value = member, index, member.inputs[index]
            if source(value) not in inside:
                continue
            while value not in inside and value not in own:
                if value not in copies and read_outside(value, inside):
                    copies[value] = module.insert_instruction(
                        value, value.op, *value.inputs, origins=value.origins
                    )
                if value in copies:
                    module.replace_input(reader, place, copies[value])
                    value = copies[value]
                own.add(value)
                reader, place, value = value, 0, value.inputs[0]
    return own


Unit: TypeAlias = Instruction | Bundle


class _Order:
    """Finds an order of a module in which each bundle is contiguous, as close as possible to its
    current order.
    """

    def __init__(self, module: Module, bundle_of: dict[Instruction, Bundle]) -> None:
        self.module, self.bundle_of = module, bundle_of
        self.order: list[Unit] = []
        self.emitted: set[Unit] = set()
        self.waiting: dict[Unit, list[Unit]] = {}
        self.missing: dict[Unit, int] = {}

    def found(self) -> list[Unit]:
        """The order; ``IRError`` if a bundle depends on itself."""
        needs: dict[Unit, dict[Unit, None]] = {}
        for at, before in dependences(self.module):
            unit = self.bundle_of.get(at, at)
            units = needs.setdefault(unit, {})
            units |= dict.fromkeys(self.bundle_of.get(value, value) for value in before)
            if isinstance(unit, Instruction) or unit.last is at:
                self.reach(unit, [n for n in units if n is not unit and n not in self.emitted])
        if self.waiting:
            raise IRError("a bundle depends on itself through instructions outside it")
        return self.order

    def reach(self, unit: Unit, missing: list[Unit]) -> None:
        """Takes a unit next if nothing it needs is missing, otherwise once that has been taken."""
        self.missing[unit] = len(missing)
        for each in missing:
            self.waiting.setdefault(each, []).append(unit)
        if not missing:
            self.emit(unit)

    def emit(self, unit: Unit) -> None:
        """Takes a unit next, and then all that waited only for it."""
        work = [unit]
        while work:
            at = work.pop()
            self.emitted.add(at)
            self.order.append(at)
            ready = []
            for each in self.waiting.pop(at, ()):
                self.missing[each] -= 1
                if not self.missing[each]:
                    ready.append(each)
            work += reversed(ready)
