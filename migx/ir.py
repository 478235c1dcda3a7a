"""Modules and instructions, and the only code that changes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from numpy.typing import ArrayLike

from migx.argument import Argument
from migx.base.order import Ordered, backwards, insert_before, onwards, unlink
from migx.consequences import infer_again, is_constant, tell_constants
from migx.errors import AbsentError, IRError, ShapeError, counted, first_few
from migx.op import Operation, traits
from migx.ops.builtin import Literal, Param, Return
from migx.shape import DType, Shape

if TYPE_CHECKING:
    from migx.program import Program

OpT = TypeVar("OpT")


class Instruction(Ordered):
    """An operation ``op`` applied to the results of other instructions, its ``inputs``. Compared by
    identity.

    ``shape`` is that of its result, ``module`` the one it is in, ``modules`` are the bodies of
    control flow. ``users`` are the instructions that read this one; ``origins`` are the names of
    the ONNX nodes it came from. ``constant`` tells whether it depends on literals and weights
    alone.
    """

    __slots__ = ("_users", "constant", "inputs", "module", "modules", "op", "origins", "shape")

    def __init__(
        self,
        module: Module,
        op: Operation,
        inputs: tuple[Instruction, ...],
        modules: tuple[Module, ...],
        shape: Shape,
        origins: tuple[str, ...],
    ) -> None:
        self.module: Module | None = module
        self.op, self.inputs, self.modules = op, inputs, modules
        self.shape, self.origins = shape, origins
        self._users: dict[Instruction, int] = {}
        self.constant = is_constant(self)

    @property
    def owner(self) -> Module:
        """The module it is in; ``AbsentError`` if it has been removed."""
        if self.module is None:
            raise AbsentError(f"{self!r} is in no module: it has been removed")
        return self.module

    @property
    def users(self) -> Collection[Instruction]:
        """The instructions that read this one, each once, in the order of their first use."""
        return self._users.keys()

    @property
    def use_count(self) -> int:
        """The number of uses; a user that reads this one twice counts twice."""
        return sum(self._users.values())

    @property
    def name(self) -> str:
        """The name of the operation."""
        return self.op.name

    def computes(self) -> bool:
        """Whether the result is a function of the inputs alone."""
        declared = traits(self.op)
        return declared.pure and declared.foldable and not self.modules

    def op_as(self, kind: type[OpT]) -> OpT:
        """The operation, if it is of that class; otherwise ``IRError``."""
        if not isinstance(self.op, kind):
            raise IRError(f"{self!r} is no {kind.__name__}")
        return self.op

    def before(self, other: Instruction) -> bool:
        """Whether this comes before ``other`` in the module that holds this. ``other`` may be in a
        submodule. O(depth).
        """
        if self.module is other.module:
            return self._label < other._label
        around = other.module.parent if other.module is not None else None
        return around is not None and around is not self and self.before(around)

    def __repr__(self) -> str:
        origins = f" from {', '.join(self.origins)}" if self.origins else ""
        named = (getattr(self.op, each, "") for each in ("parameter", "label", "slot"))
        words = [self.op.name, *filter(None, named), self.shape]
        return f"<{' '.join(map(str, words))}{origins}>"

    def __str__(self) -> str:
        """Its line in the text of its module."""
        from migx.text import show_instruction

        return show_instruction(self)


class Module:
    """An ordered list of instructions, every input before its users. Created by
    ``Program.create_module``. Iterating over it gives its instructions, ``len`` their number;
    ``parameters`` are its inputs by name, each an instruction with a ``shape``.

    A module that reads values of enclosing modules has exactly one parent, the instruction it is an
    argument of; ``parents`` are all of those. ``bypass`` tells the pass manager to leave it alone.
    """

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name, self.bypass = program, name, False
        self.parameters: dict[str, Instruction] = {}
        self.parents: dict[Instruction, int] = {}
        self._ends = Ordered.ring()
        self._size = 0

    def __repr__(self) -> str:
        return f"<Module {self.name} of {counted(self._size, 'instruction')}>"

    def __str__(self) -> str:
        from migx.text import show_module

        return show_module(self)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Instruction]:
        """The instructions in order. Survives any change during iteration; see ``onwards``."""
        return onwards(self._ends)

    def __reversed__(self) -> Iterator[Instruction]:
        return backwards(self._ends)

    def following(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions after one of this module, in order."""
        return onwards(instruction)

    def preceding(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions before one of this module, from the nearest to the first."""
        return backwards(instruction)

    @property
    def last(self) -> Instruction | None:
        """The last instruction, the return if there is one."""
        return next(reversed(self), None)

    @property
    def returned(self) -> Instruction | None:
        """The return instruction, or None while the module is being built."""
        last = self._ends._previous
        return last if isinstance(last, Instruction) and type(last.op) is Return else None

    @property
    def outputs(self) -> tuple[Instruction, ...]:
        """The results of the module."""
        returned = self.returned
        return returned.inputs if returned is not None else ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs; ``output_0`` and so on if they have none."""
        given = self.returned.op_as(Return).names if self.returned is not None else ()
        return given or tuple(f"output_{i}" for i in range(len(self.outputs)))

    @property
    def parent(self) -> Instruction | None:
        """The instruction this module is an argument of; None for a root or a shared module."""
        return next(iter(self.parents)) if len(self.parents) == 1 else None

    def enclosing(self) -> Iterator[Module]:
        """This module and those that enclose it, innermost first."""
        module: Module | None = self
        while module is not None:
            yield module
            module = module.parent.module if module.parent is not None else None

    def add_parameter(
        self, name: str, shape: Shape, *, before: Instruction | None = None
    ) -> Instruction:
        """Declares an input. Parameters come first in a module, in the order they are added, or
        before another one.
        """
        self._expect_free(name)
        last = next(reversed(self.parameters.values()), None)
        at = self._ends._next if last is None else last._next
        if before is not None:
            at = self._parameter(before)
        made = self.insert_instruction(
            at if isinstance(at, Instruction) else None, Param(name, shape)
        )
        self.parameters[name] = made
        if before is not None:
            in_order = sorted(self.parameters.items(), key=lambda each: each[1]._label)
            self.parameters = dict(in_order)
        return made

    def rename_parameter(self, parameter: Instruction, name: str) -> None:
        """Renames a parameter; it stays where it is."""
        shape = self._parameter(parameter).shape
        self._expect_free(name)
        self.program.revision += 1
        parameter.op = Param(name, shape)
        self.parameters = {p.op_as(Param).parameter: p for p in self.parameters.values()}

    def _expect_free(self, name: str) -> None:
        if name in self.parameters:
            raise IRError(f"module {self.name} already has a parameter {name!r}")

    def _parameter(self, at: Instruction) -> Instruction:
        """The given instruction; ``IRError`` if it is no parameter of this module."""
        if at not in self.parameters.values():
            known = first_few(list(self.parameters))
            raise IRError(f"{at!r} is not a parameter of module {self.name}, which has {known}")
        return at

    def add_literal(
        self,
        value: ArrayLike | Argument,
        dtype: DType | str | None = None,
        *,
        name: str = "",
        replaceable: bool = False,
        before: Instruction | None = None,
    ) -> Instruction:
        """Adds a constant: at the end, before any return, or before a given instruction."""
        literal = Literal(Argument.of(value, dtype), name, replaceable)
        return self.insert_instruction(before or self.returned, literal)

    def add_instruction(
        self,
        op: Operation,
        *inputs: Instruction,
        modules: Sequence[Module] = (),
        origins: tuple[str, ...] = (),
    ) -> Instruction:
        """Adds an instruction at the end, before the return if there is one. Raises the same errors
        as ``insert_instruction``.
        """
        return self.insert_instruction(self.returned, op, *inputs, modules=modules, origins=origins)

    def insert_instruction(
        self,
        before: Instruction | None,
        op: Operation,
        *inputs: Instruction,
        modules: Sequence[Module] = (),
        origins: tuple[str, ...] = (),
    ) -> Instruction:
        """Adds an instruction before another (None: at the end); its shape is inferred.

        Raises ``ShapeError``, drawn with the instruction and its origin, if the operation refuses
        its inputs, and ``IRError`` if an input does not come before it.
        """
        at: Ordered = self._ends if before is None else _instruction(before, "before")
        if before is not None and before.module is not self:
            raise IRError(
                f"{before!r} is not in module {self.name}, so nothing can be added before it there"
            )
        try:
            for value in inputs:
                if value.module is not self or before is not None:
                    self._check_input(value, before, op)
            for module in modules:
                what = f"module {module.name} cannot be an argument in module {self.name}"
                if module.program is not self.program:
                    raise IRError(f"{what}: it is of another program")
                if self in self.program.submodules(module):
                    raise IRError(f"{what}, which it is or contains")
            shape = op.compute_shape([value.shape for value in inputs], modules)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            from migx.refusals import refuse

            refuse(error, self, op, inputs, modules, origins)
            raise
        if not isinstance(shape, Shape):
            raise IRError(f"the shape rule of {op.name} gave {shape!r}, which is no Shape")
        return self._link(at, Instruction(self, op, inputs, tuple(modules), shape, origins))

    def append_known(
        self,
        op: Operation,
        inputs: tuple[Instruction, ...],
        modules: tuple[Module, ...],
        shape: Shape,
        origins: tuple[str, ...],
    ) -> Instruction:
        """Adds an instruction at the very end, with a known shape, as in copies of programs."""
        made = self._link(self._ends, Instruction(self, op, inputs, modules, shape, origins))
        if type(op) is Param:
            self.parameters[op.parameter] = made
        return made

    def _link(self, at: Ordered, made: Instruction) -> Instruction:
        self.program.revision += 1
        insert_before(made, at)
        self._size += 1
        for value in made.inputs:
            value._users[made] = value._users.get(made, 0) + 1
        for module in made.modules:
            module.parents[made] = module.parents.get(made, 0) + 1
        if isinstance(made.op, Literal):
            self.program.literals[made] = None
        return made

    def _check_input(self, value: Instruction, before: Instruction | None, op: Operation) -> None:
        """``IRError`` unless a value is computed before, in this module or an enclosing one. A
        module that is no argument yet has no enclosing modules to check.
        """
        if value.module is None or value.module.program is not self.program:
            raise IRError(f"{op.name} reads {value!r}, which is not in this program")
        module, at = self, before  # at: the reader, or the instruction whose module holds it
        while module is not value.module and (parent := module.parent) is not None:
            module, at = parent.owner, parent
        if module is value.module:
            if at is not None and (value is at or not value.before(at)):
                raise IRError(f"{op.name} would read {value!r}, which does not come before it")
        elif module is self.program.main or module.parents or module in value.module.enclosing():
            raise IRError(
                f"{op.name} in module {self.name} would read {value!r} of module "
                f"{value.module.name}, which does not enclose it: a module's values are visible "
                "only in it and its submodules; return them to use them elsewhere"
            )

    def add_return(self, *values: Instruction, names: Sequence[str] = ()) -> Instruction:
        """Ends the module with its results, optionally named. Replaces an existing return, which
        stays if the new one is refused.
        """
        was = self.returned
        made = self.insert_instruction(None, Return(tuple(names)), *values)
        if was is not None:
            self.remove_instruction(was)
        return made

    def replace_instruction(self, old: Instruction, new: Instruction) -> Instruction:
        """Replaces all uses of ``old`` by ``new`` and merges its origins. ``old`` stays until it is
        removed. Type and dims must be equal. If the strides differ, the users' shapes are inferred
        again; if a user refuses the new strides, so does the replacement, and the module is
        unchanged.
        """
        self.replace_instructions({_instruction(old, "old"): _instruction(new, "new")})
        return new

    def replace_instructions(self, pairs: Mapping[Instruction, Instruction]) -> None:
        """Replaces several at once, in order, as ``replace_instruction`` does: all or none."""
        counts = {at: dict(at._users) for pair in pairs.items() for at in pair}
        readers: dict[Instruction, tuple[Instruction, ...]] = {}
        try:
            for old, new in pairs.items():
                self._expect_replaceable(old, new)
                for user in [user for user in old._users if user is not new]:
                    readers.setdefault(user, user.inputs)
                    self._reconnect(user, old, new)
            if any(old.shape != new.shape for old, new in pairs.items()):
                infer_again(readers)
        except (ShapeError, IRError):
            for user, inputs in readers.items():
                user.inputs = inputs
            for at, users in counts.items():
                at._users = users
            infer_again(readers)
            raise
        if any(old.constant != new.constant for old, new in pairs.items()):
            tell_constants(readers)
        self.program.revision += bool(readers)
        for old, new in pairs.items():
            new.origins = merged(new.origins, old.origins)

    @staticmethod
    def _expect_replaceable(old: Instruction, new: Instruction) -> None:
        """``IRError`` if one value cannot replace another."""
        if old.module is None:
            raise IRError(f"cannot replace {old!r}: it has been removed")
        if not old.shape.same_type(new.shape):
            raise IRError(f"cannot replace a value of {old.shape} by one of {new.shape}")
        for user in old._users:
            if user is not new and not new.before(user):
                raise IRError(
                    f"cannot replace {old!r} by {new!r}, which does not come before its user "
                    f"{user!r} in its module or one that encloses it"
                )

    @staticmethod
    def _reconnect(user: Instruction, old: Instruction, new: Instruction) -> None:
        count = old._users.pop(user)
        user.inputs = tuple(new if value is old else value for value in user.inputs)
        new._users[user] = new._users.get(user, 0) + count

    def replace_input(self, user: Instruction, index: int, new: Instruction) -> None:
        """Replaces one input of an instruction and infers its shape again; dims and type must stay
        as they are.
        """
        old = user.inputs[index]
        if not new.before(user):
            raise IRError(f"{user!r} would read {new!r}, which does not come before it")
        before = user.inputs
        user.inputs = (*before[:index], new, *before[index + 1 :])
        try:
            infer_again([user])
        except ShapeError as error:
            user.inputs = before
            infer_again([user])
            raise IRError(f"cannot make {user!r} read {new!r}: {error}") from error
        tell_constants([user])
        self.program.revision += 1
        _forget(old._users, user)
        new._users[user] = new._users.get(user, 0) + 1

    def replace_operation(self, instruction: Instruction, op: Operation) -> None:
        """Replaces the operation of an instruction; inputs and shape stay the same."""
        shape = op.compute_shape([v.shape for v in instruction.inputs], instruction.modules)
        if instruction.module is not self or shape != instruction.shape:
            raise IRError(f"{op.name} of {shape} cannot take the place of {instruction!r}")
        self.program.revision += 1
        instruction.op = op
        tell_constants([instruction])
        self.program.literals.pop(instruction, None)
        if isinstance(op, Literal):
            self.program.literals[instruction] = None

    def move_instruction(self, instruction: Instruction, before: Instruction) -> None:
        """Moves an instruction within its module; its inputs must still come before it and its
        users after.
        """
        if instruction.module is not self or before.module is not self:
            raise IRError(f"both {instruction!r} and {before!r} must be in module {self.name}")
        if instruction is before:
            return
        if Param in (type(instruction.op), type(before.op)):
            raise IRError(
                f"cannot move {instruction!r} before {before!r}: parameters stand in front, in the "
                "order of the inputs; add_parameter(..., before=) makes one at another place"
            )
        late = [v for v in instruction.inputs if v.module is self and not v.before(before)]
        early = [u for u in instruction._users if not (_holds(before, u) or before.before(u))]
        if crossed := [*late, *early]:
            raise IRError(
                f"cannot move {instruction!r} before {before!r}: it would cross {crossed[0]!r}"
            )
        self.program.revision += 1
        unlink(instruction)
        insert_before(instruction, before)

    def remove_instruction(self, instruction: Instruction) -> None:
        """Removes an instruction without users. O(1) in the size of the module."""
        if instruction.module is not self:
            raise IRError(f"{instruction!r} is not in module {self.name}")
        if instruction._users:
            readers = counted(len(instruction._users), "instruction")
            raise IRError(f"cannot remove {instruction!r}, which is read by {readers}")
        self.program.revision += 1
        if type(instruction.op) is Param:
            del self.parameters[instruction.op.parameter]
        for value in instruction.inputs:
            _forget(value._users, instruction)
        for module in instruction.modules:
            _forget(module.parents, instruction)
        unlink(instruction)
        self.program.literals.pop(instruction, None)
        instruction.module = None
        self._size -= 1


def merged(*origins: Iterable[str]) -> tuple[str, ...]:
    """Origins without repetition, in order."""
    return tuple(dict.fromkeys(name for group in origins for name in group))


def _forget(counts: dict[Instruction, int], user: Instruction) -> None:
    counts[user] -= 1
    if not counts[user]:
        del counts[user]


def _instruction(value: object, what: str) -> Instruction:
    """The value, if it is an instruction; otherwise ``IRError`` naming the argument ``what``."""
    if not isinstance(value, Instruction):
        right = "; None inserts at the end" if what == "before" else ""
        raise IRError(f"{what} is of type {type(value).__name__}, not an instruction{right}")
    return value


def _holds(at: Instruction, other: Instruction) -> bool:
    """Whether ``at`` is the other instruction, or one of its modules contains it."""
    around = () if other.module is None else other.module.enclosing()
    return other is at or any(module.parent is at for module in around)
