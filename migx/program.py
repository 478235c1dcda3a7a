"""Programs: modules by name, and the methods users call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Unpack

from numpy.typing import ArrayLike

from migx import op as operations
from migx.argument import Argument
from migx.base import collector
from migx.dims.symbol import Symbol
from migx.errors import AbsentError, IRError, counted
from migx.ir import Instruction, Module
from migx.ops.builtin import AssumeEqual
from migx.shape import Shape

if TYPE_CHECKING:
    from migx.compiler import Compiled
    from migx.target import Asked, Target
    from migx.weights.update import Update


class Program:
    """Modules by name: ``modules``, of which ``main`` is the root. Compiling leaves it unchanged:
    the executable is kept beside it. ``main.parameters`` are the inputs by name, ``main.outputs``
    the results; ``literals`` are those of all modules, in the order they were added.

    ``==`` is structural and exact: operations with every bit of their attributes and literals,
    edges, order, names. Origins are ignored.
    """

    revision = 0
    """The number of changes made by the methods of the program and its modules."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self.literals: dict[Instruction, None] = {}
        self.main = self.create_module("main")
        self._compiled: Compiled | None = None
        self._switching = threading.Lock()

    @property
    def weights(self) -> Module | None:
        """The module of all values that depend only on weights; its results are the slots that
        other modules read. None if there is none.
        """
        return self.modules.get("weights")

    @property
    def slots(self) -> dict[str, Instruction]:
        """The instruction that computes each slot, by name."""
        made = self.weights
        return {} if made is None else dict(zip(made.output_names, made.outputs, strict=True))

    @property
    def assumptions(self) -> tuple[AssumeEqual, ...]:
        """What passes assumed when they read the values of replaceable weights."""
        found = self.weights or ()
        return tuple(at.op for at in found if isinstance(at.op, AssumeEqual))

    @property
    def weight_shapes(self) -> dict[str, Shape]:
        """The types and dims of the replaceable weights, by name."""
        from migx.weights.hoisting import weights_of

        return {name: at.shape for name, at in weights_of(self).items()}

    def make_replaceable(self, names: Iterable[str] | None = None) -> Program:
        """Marks literals as weights that ``update_weights`` may replace, once the program is
        compiled: those with the given names, or all that have names. Single integers and lists of
        i64 cannot be marked, because the program's form may depend on them. Single floats, such as
        the bias of one channel or a scale, count as numbers unless they are named. ``WeightError``
        names one that is missing or cannot be marked.
        """
        from migx.weights.marking import make_replaceable

        make_replaceable(self, names)
        return self

    def create_module(self, name: str) -> Module:
        """An empty module with a new name."""
        if name in self.modules:
            raise IRError(f"there is already a module {name!r}")
        self.revision += 1
        made = self.modules[name] = Module(self, name)
        return made

    def add_module(self, name: str, *, bypass: bool = False) -> Module:
        """An empty module with a name, to which a number is added if it is taken."""
        made = self.create_module(self._unused_name(name))
        made.bypass = bypass
        return made

    def _unused_name(self, name: str) -> str:
        """A name no module has: the given one, with a number if it is taken. O(log modules)."""
        if name not in self.modules:
            return name
        low, high = 0, 1
        while f"{name}_{high}" in self.modules:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            taken = f"{name}_{middle}" in self.modules
            low, high = (middle, high) if taken else (low, middle)
        return f"{name}_{high}"

    def rename_module(self, module: Module, name: str) -> None:
        if name in self.modules:
            raise IRError(f"there is already a module {name!r}")
        self.revision += 1
        del self.modules[module.name]
        module.name = name
        self.modules[name] = module

    def remove_module(self, module: Module) -> None:
        """Removes a module that is no instruction's argument, with its contents and the modules
        that only it uses.
        """
        if module.parents or module is self.main:
            raise IRError(f"cannot remove module {module.name}: it is in use")
        for instruction in reversed(module):
            module.remove_instruction(instruction)
            for inner in dict.fromkeys(instruction.modules):
                if not inner.parents:
                    self.remove_module(inner)
        self.revision += 1
        del self.modules[module.name]

    def submodules(self, module: Module) -> list[Module]:
        """The modules reached from one, itself last: children before parents, each once."""
        done: dict[Module, None] = {}
        stack: list[tuple[Module, Iterator[Module]]] = [(module, _arguments(module))]
        while stack:
            at, rest = stack[-1]
            child = next((m for m in rest if m not in done), None)
            if child is None:
                done[at] = None
                stack.pop()
            else:
                stack.append((child, _arguments(child)))
        return list(done)

    @property
    def size(self) -> int:
        """The number of instructions in all modules."""
        return sum(map(len, self.modules.values()))

    def instructions(self) -> Iterator[Instruction]:
        """The instructions of all modules, module by module. Survives changes during iteration, as
        iterating over a module does.
        """
        return chain.from_iterable(tuple(self.modules.values()))

    def named(self, name: str) -> list[Instruction]:
        """The instructions a name refers to: as in the text, ``%3``, or ``body:%3`` in another
        module; a parameter; a weight; or an ONNX node they came from. If there is none, those of
        the operation of that name. ``UnknownName`` lists similar ones.
        """
        from migx.text import named

        return named(self, name)

    def symbols(self) -> dict[str, Symbol]:
        """Every symbol by name. Two with one name but different bounds are an ``IRError``."""
        found: dict[str, Symbol] = {}
        for at in self.instructions():
            for symbol in (*at.shape.symbols(), *operations.symbols(at.op)):
                known = found.setdefault(symbol.name, symbol)
                if known is not symbol and known != symbol:
                    raise IRError(f"dim {symbol} is declared as {known!r} and {symbol!r}")
        return found

    def compile(self, target: Target | str = "cpu", **options: Unpack[Asked]) -> Program:
        """Compiles for a target, given as such or by name, into the executable that ``eval`` runs.
        The program itself is unchanged.

        Updates of weights persist: the new executable begins with the last values of the previous
        one, including those that other threads commit meanwhile.

        Options: ``passes="..."`` runs that pipeline instead of the target's own; ``observers``
        watch it run; ``log`` records its rewrites; ``num_threads`` is how many threads a run may
        use; ``activations="int8"`` quantises activations that are multiplied by weights of 4 or 8
        bits; ``fast_math=True`` allows more rounding in f32. See ``migx.target.CompileOptions``.
        """
        from migx.compiler import compiled

        return self._runs(lambda: compiled(self, target, **options))

    def finalize(self, target: Target | str) -> Program:
        """Makes the executable of a program that is already lowered, without running passes: a
        compiled program whose weights have been replaced, or one lowered by hand for the target.
        """
        from migx.compiler import finalized

        return self._runs(lambda: finalized(self, target))

    def _runs(self, make: Callable[[], Compiled]) -> Program:
        """Makes an executable the one ``eval`` runs, with all weight updates committed so far. If
        it cannot take them over, it is made again.
        """
        from migx.weights.live import caught_up, committing

        while True:
            made = make()
            collector.hold(made.nbytes)
            with self._switching, committing(self):
                before = self._compiled
                if made is before:
                    return self
                if before is None or caught_up(made, self):
                    self._compiled = made
                    if before is not None:
                        before.weights.replaced = True
                    return self

    @property
    def compiled(self) -> Compiled:
        """The result of ``compile``; ``AbsentError`` if there is none, or the program changed."""
        made = self._compiled
        if made is None:
            raise AbsentError("the program is not compiled: call program.compile() first")
        if made.revision != self.revision:
            raise AbsentError(
                "the program has been changed since it was compiled: call program.compile() again"
            )
        return made

    @property
    def executable(self) -> Any:
        """The target's executable of the compiled program; ``AbsentError`` as for ``compiled``."""
        return self.compiled.executable

    def eval(self, inputs: Mapping[str, ArrayLike | Argument]) -> list[Any]:
        """Runs the compiled program and returns its outputs in order. Thread-safe. A tuple is given
        as a tuple or a list. Python numbers, also in lists, become the type of their input, if they
        are whole or the type is one of floats. The arrays returned belong to the caller: they share
        no memory with the inputs, the weights, one another, or other runs.

        ``InputError`` names an input that is missing, unknown, or of the wrong type, rank or size;
        ``WeightError`` the weights that have no value yet.
        """
        return self.compiled.eval(inputs)

    def update_weights(
        self, *, check_finite: bool = False, in_place: bool = False, copy: bool = True
    ) -> Update:
        """A transaction that swaps weights of the compiled program: ``with
        program.update_weights() as new: new[name] = array``.

        ``check_finite=True`` refuses NaN and infinities; ``in_place=True`` and ``copy=False`` save
        memory: see ``migx.weights.epochs.LiveWeights.update``.
        """
        weights = self.compiled.weights
        return weights.update(check_finite=check_finite, in_place=in_place, copy=copy)

    def run(self, inputs: Mapping[str, ArrayLike | Argument]) -> list[Any]:
        """The same as ``eval``."""
        return self.eval(inputs)

    def copy(self) -> Program:
        """An independent program, equal to this one, with its instructions in the same order;
        operations and literal data are shared. It is not compiled, and lacks the updates of
        weights, which belong to the compiled form.
        ``copy.copy``, ``copy.deepcopy`` and ``pickle`` do the same; ``migx.save`` keeps both.
        """
        from migx.structure import copied

        return copied(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        from migx.structure import flat, of_flat

        return of_flat, (flat(self),)

    def fingerprint(self) -> str:
        """SHA-256 of the structure and all literals' bytes; equal programs have equal ones."""
        from migx.structure import fingerprint

        return fingerprint(self)

    def __eq__(self, other: object) -> bool:
        from migx.structure import equal

        return self is other or (isinstance(other, Program) and equal(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        held = f" in {len(self.modules)} modules" if len(self.modules) > 1 else ""
        return f"<Program of {counted(self.size, 'instruction')}{held}>"

    def __str__(self) -> str:
        from migx.text import show

        return show(self)


def _arguments(module: Module) -> Iterator[Module]:
    return (m for instruction in module for m in instruction.modules)
