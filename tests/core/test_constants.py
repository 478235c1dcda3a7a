"""No pass makes constants grow by accident: not openly, not behind bytes freed elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx import ops
from migx.argument import Argument
from migx.errors import ConstantGrowth
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.ops.builtin import Literal
from migx.program import Program
from migx.shape import F32, I4, I8, Shape
from migx.weights.constants import ALLOWANCE, Made, connected, is_unpacked, related

MIB = 1 << 20


def weight(module: Module, nbytes: int) -> Instruction:
    """A literal of so many bytes that a reduction reads."""
    return module.add_literal(np.zeros(nbytes // 4, np.float32))


def packed(module: Module, elements: int) -> Instruction:
    return module.add_literal(
        Argument.packed(Shape(I4, (elements,)), np.zeros(elements // 2, np.uint8))
    )


def program(*sizes: int) -> Program:
    """Sums of literals of these sizes, of each as it is and repeated four times."""
    made = Program()
    sums = []
    for size in sizes:
        w = weight(made.main, size)
        many = made.main.add_instruction(ops.Concat(0), w, w, w, w)
        sums += [made.main.add_instruction(ops.ReduceSum((0,)), v) for v in (w, many)]
    made.main.add_return(*sums)
    return made


def literals(module: Module) -> list[Instruction]:
    return [at for at in module if type(at.op) is Literal]


class Unfold(Pass):
    """Folds every concat, through the helper, whatever it takes."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        found = [at for at in module if at.name == "concat"]
        for at in found:
            manager.constants.fold(at, Argument(at.shape, np.zeros(at.shape.dims, np.float32)))
        return bool(found)


class Generous(Unfold):
    """Does the same, and says how much it takes."""

    constant_allowance = 5 * MIB


class UnfoldAndFree(Unfold):
    """Hides what it adds behind a larger constant that it frees elsewhere."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        free(module, 64 * MIB)
        return super().apply(module, manager)


class Bypass(Pass):
    """Puts larger literals in the place of concats, past the helper."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        free(module, 64 * MIB)
        found = [at for at in module if at.name == "concat"]
        for at in found:
            literal = module.add_literal(np.ones(at.shape.dims, np.float32), before=at)
            module.replace_instruction(at, literal)
        return bool(found)


class Within(Pass):
    """Runs another pass, which is to blame for what that one does."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        return manager.run_pass(Unfold())


def free(module: Module, nbytes: int) -> None:
    """Replaces the sum of each literal of so many bytes by the sum of a number."""
    for at in literals(module):
        if at.shape.nbytes == nbytes:
            for user in tuple(at.users):
                module.replace_instruction(user, module.add_literal([0.0], "f32", before=user))


@pytest.mark.parametrize(("each", "size"), [(Unfold(), MIB), (Bypass(), MIB), (Within(), MIB)])
def test_a_pass_that_adds_more_than_its_allowance_is_named(each: Pass, size: int) -> None:
    blamed = "unfold" if isinstance(each, Within) else each.name
    with pytest.raises(ConstantGrowth, match=rf"pass {blamed} makes f32\[{size}\] of {4 * size}"):
        migx.run_passes(program(size), [each])


@pytest.mark.parametrize("each", [UnfoldAndFree(), Bypass()])
def test_bytes_freed_elsewhere_hide_nothing(each: Pass) -> None:
    given = program(MIB)
    given.main.add_return(
        *given.main.outputs,
        given.main.add_instruction(ops.ReduceSum((0,)), weight(given.main, 64 * MIB)),
    )
    with pytest.raises(ConstantGrowth, match=f"frees 0 bytes .* add {ALLOWANCE} bytes"):
        migx.run_passes(given, [each])


def test_what_a_pass_states_it_may_add() -> None:
    assert migx.run_passes(program(MIB), [Generous()])


def test_each_set_of_constants_is_counted_by_itself() -> None:
    quarter = MIB // 4
    assert migx.run_passes(program(quarter, quarter), [Unfold()])
    shared = program(quarter)
    (w,) = literals(shared.main)
    again = shared.main.add_instruction(ops.Concat(0), w, w, w, w)
    shared.main.add_return(
        *shared.main.outputs, shared.main.add_instruction(ops.ReduceSum((0,)), again)
    )
    with pytest.raises(ConstantGrowth, match="makes 2 constants"):
        migx.run_passes(shared, [Unfold()])


class Unpack(Pass):
    """Stores what packed weights unpack to, through the helper or past it."""

    helped: bool

    def apply(self, module: Module, manager: PassManager) -> bool:
        found = [at for at in module if at.name == "unpack_int4"]
        for at in found:
            levels = np.resize(np.arange(-8, 8, dtype=np.int8), [int(d) for d in at.shape.dims])
            value = Argument(at.shape, levels)
            if self.helped:
                manager.constants.fold(at, value)
            else:
                module.replace_instruction(at, module.add_literal(value, before=at))
        return bool(found)


@pytest.mark.parametrize("helped", [True, False])
def test_packed_weights_have_no_allowance(helped: bool) -> None:
    given = Program()
    given.main.add_return(
        given.main.add_instruction(ops.UnpackInt4(), packed(given.main, 64)),
        given.main.add_instruction(ops.Neg(), weight(given.main, 1024)),
    )
    with pytest.raises(ConstantGrowth, match="packed storage may not take more"):
        migx.run_passes(given, [Unpack(helped)])


def test_what_is_one_number_everywhere_is_made_of_no_packed_weight() -> None:
    """As the kernel of ones that sums windows, for weights with zero points."""

    class Ones(Pass):
        def apply(self, module: Module, manager: PassManager) -> bool:
            found = [at for at in module if at.name == "unpack_int4"]
            for at in found:
                ones = module.add_literal(np.ones([int(d) for d in at.shape.dims], np.int8))
                module.replace_instruction(at, ones)
            return bool(found)

    given = Program()
    given.main.add_return(given.main.add_instruction(ops.UnpackInt4(), packed(given.main, 64)))
    assert migx.run_passes(given, [Ones()])


def test_literals_may_move_and_go() -> None:
    class Copy(Pass):
        """Adds each literal again, of the same data, and reads that."""

        def apply(self, module: Module, manager: PassManager) -> bool:
            for at in literals(module):
                assert isinstance(at.op, Literal)
                module.replace_instruction(at, module.add_literal(at.op.value, before=at))
            return True

    assert migx.run_passes(program(8 * MIB), [Copy()])


def test_sets_are_joined_by_what_is_in_common() -> None:
    assert connected([[1], [2, 3], [4], [3, 4]]) == [[0], [1, 2, 3]]
    small, *large = (Argument.of(np.zeros(n, np.float32)) for n in (1, 100, 100))
    made = [Made(Shape(F32, (9,)), sources) for sources in ([small, large[0]], [small, large[1]])]
    assert [r.made for r in related(made)] == [[m] for m in made]
    from_nothing = [Made(Shape(F32, (9,)), sources) for sources in ([small], [])]
    assert [r.made for r in related(from_nothing)] == [from_nothing]


def test_the_bytes_a_set_takes_too_many() -> None:
    w, other = (Argument.of(np.zeros(100, np.int8)) for _ in "ab")
    made = Made(Shape(I8, (250,)), [w])
    assert made.excess({id(other)}, 50) == 200
    assert made.excess({id(w)}, 50) == 100
    assert made.excess({id(w)}, 200) == -50
    four_bit = Argument.packed(Shape(I4, (100,)), bytes(50))
    assert Made(Shape(I8, (100,)), [four_bit, w]).excess({id(four_bit), id(w)}, 1000) == 50


@pytest.mark.parametrize("moved", [ops.Neg(), ops.Exp()])
def test_unpacked_storage_is_followed_where_it_is_but_moved(moved: migx.op.Operation) -> None:
    module = Program().main
    x = module.add_instruction(ops.UnpackInt4(), packed(module, 4))
    for op in (ops.Convert(F32), ops.Reshape((2, 2)), ops.Transpose((1, 0)), ops.Contiguous()):
        x = module.add_instruction(op, x)
        assert is_unpacked(x)
    assert not is_unpacked(module.add_instruction(moved, x))
    assert not is_unpacked(weight(module, 16))
