"""Kernels of matrix products with their epilogues: ``dot``, ``quant_dot``, and groups of one of
these and what follows it.

A cell is a block of rows by a panel of columns; ``tile.py`` has its inner loops and chooses its
size. A tile of the plan is one cell, or as many as are worth a thread's while. The sums of a cell
are kept in scratch; when they are complete, the epilogue passes over them once and writes the
result.

A literal on the right is read in panels packed ahead. Any other right operand is packed into
scratch, or computed there from its inputs, once for all the rows that a thread multiplies it with;
if the rows are few, it is read in place. Rows on the left are read in place, unless their elements
must be widened first.

Each sum is accumulated in the order of the depth by one thread, so bits depend neither on the
number of threads nor on the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from migx.dim import Extent, bounds, maximum, minimum, product
from migx.fusion.kernels import DOTS, Access, FusedKernel, core_of, epilogue, fewest, operand
from migx.ir import Instruction
from migx.planning import root
from migx.shape import TUPLE, DType, Shape
from migx.targets.cpu.emit import Function, Type, Value
from migx.targets.cpu.kernel import Kernel, KernelWriter, behind, input_number, narrower, type_of
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts import elements
from migx.targets.cpu.parts.epilogue import Destination, Epilogue, emittable, evaluated, writable
from migx.targets.cpu.parts.matrix import Matrix, widened
from migx.targets.cpu.parts.tile import (
    BLOCK,
    SUMS,
    WORTH,
    Tile,
    accumulate,
    chosen,
    staged,
    sum_type,
)
from migx.targets.cpu.parts.transpose import gather_columns

Axes = tuple[tuple[Extent, tuple[Extent, Extent]], ...]
"""Extents, with the strides along each on the left and on the right, in elements."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a product of matrices, alone or in a group with its epilogue."""
    problem = described(at)
    if problem is None or not problem.writable(machine):
        return None
    return Writer(at, machine, problem).kernel()


@dataclass(frozen=True)
class Problem:
    """A product of matrices, repeated over the ``batch``, and its epilogue.

    ``left`` and ``right`` are numbers of inputs; ``types`` their element types; the ``steps`` their
    strides along rows and columns. ``literal`` has the letters of the axes of a literal on the
    right: of the batch, the depth and the columns. If the right operand is ``computed`` elementwise
    from inputs, ``right`` is None, and the letters are those of the axes it is computed on.
    """

    left: int
    right: int | None
    types: tuple[DType, DType]
    sum: Type
    batch: Axes
    rows: Extent
    columns: Extent
    depth: Extent
    left_steps: tuple[Extent, Extent]
    right_steps: tuple[Extent, Extent]
    literal: tuple[str, str, str] | None
    computed: FusedKernel | None
    epilogue: FusedKernel

    def format(self, width: int) -> str | None:
        """The weight format of panels this wide, if the right operand is a literal."""
        if self.literal is None or self.right is None:
            return None
        lead, depth, column = self.literal
        return f"{lead}{column.upper()}{depth}{width}{column}"

    def writable(self, machine: Machine) -> bool:
        """Whether all its operations have instructions."""
        computed = self.computed.nodes if self.computed else ()
        types = all(elements.computable(t, machine) for t in self.types)
        return types and writable(self.epilogue, machine) and emittable(computed, machine)


def described(at: Instruction) -> Problem | None:
    """The product an instruction computes; None if there is none, or its operands are not inputs as
    they are.
    """
    dot = core_of(at, DOTS)
    left = None if dot is None else input_number(at, dot, dot.inputs[0])
    if dot is None or left is None:
        return None
    x, columns, sum_ = at.inputs[left].shape, dot.shape.dims[-1], sum_type(dot.shape.dtype)
    depth = x.dims[-1] if isinstance(x.dims[-1], int) else dot.inputs[1].shape.dims[-2]
    right, rest = _right(at, dot, depth), epilogue(at, dot, columns)
    if sum_ is None or rest is None or right is None:
        return None
    read_again = any(access.operand == right.operand for access in rest.accesses)
    y = right.shape
    steps = [*zip(x.true_strides[:-1], (*y.true_strides[:-2], 0), strict=True)]
    axes = fewest(zip(x.dims[:-1], steps, strict=True))
    rows, (row, _) = axes.pop() if axes and axes[-1][1][1] == 0 else (1, (0, 0))
    return Problem(
        left,
        right.operand,
        types=(x.dtype, right.dtype),
        sum=sum_,
        batch=tuple(axes),
        rows=rows,
        columns=columns,
        depth=depth,
        left_steps=(depth if row == x.dims[-1] else row, x.true_strides[-1]),
        right_steps=(y.true_strides[-2], 1 if columns == 1 else y.true_strides[-1]),
        literal=None if read_again else right.letters,
        computed=right.computed,
        epilogue=rest,
    )


@dataclass(frozen=True)
class _Right:
    """The right operand of a product: an input, given by its number, or ``computed``; its type
    there, and its shape as it is multiplied. If all of a constant is, or of what is computed,
    ``letters`` are those of its axes.
    """

    operand: int | None
    dtype: DType
    shape: Shape
    letters: tuple[str, str, str] | None
    computed: FusedKernel | None


def _right(at: Instruction, dot: Instruction, depth: Extent) -> _Right | None:
    """The right operand of a product; None if it is not described."""
    number = input_number(at, dot, dot.inputs[1])
    factor = dot.inputs[1] if number is None else at.inputs[number]
    whole, computed = root(factor), None
    if whole.shape.dtype is TUPLE:  # one of several results, which has a type of its own
        whole = factor
    letters = _letters(whole, factor.shape, depth, dot.shape.dims[-1])
    if number is None and letters is not None:
        number, whole = _given(at, dot, whole)
        if number is None and not letters[0]:  # one matrix, for all of a batch
            computed = operand(at, whole)
    if number is None and computed is None:
        return None
    known = computed is not None or behind(whole) is not None
    return _Right(number, whole.shape.dtype, factor.shape, letters if known else None, computed)


def _given(at: Instruction, dot: Instruction, value: Instruction) -> tuple[int | None, Instruction]:
    """The number of the input that a value inside is, or was widened from, and that input; None and
    the value if it is none.
    """
    number = input_number(at, dot, narrower(value))
    if number is None or not at.inputs[number].shape.standard:
        return None, value
    return number, at.inputs[number]


def _letters(
    whole: Instruction, shape: Shape, depth: Extent, columns: Extent
) -> tuple[str, str, str] | None:
    """The letters of a value's axes (of the batch, the depth and the columns), if a view of it with
    this shape is all of it, matrix by matrix.
    """
    if whole.shape.rank < 2 or not whole.shape.standard:
        return None
    *lead, a, b = (chr(ord("a") + i) for i in range(whole.shape.rank))
    height, width = whole.shape.dims[-2:]
    row, column = shape.true_strides[-2:]
    matrix = height * width if isinstance(height, int) and isinstance(width, int) else 0
    if not matrix or any(not isinstance(s, int) or s % matrix for s in shape.true_strides[:-2]):
        return None
    reached = sum(
        (d - 1) * s for d, s in zip(shape.dims[:-2], shape.true_strides[:-2], strict=True) if s != 0
    )
    if reached + matrix != whole.shape.elements:
        return None
    if (height, width) == (depth, columns) and _fits((row, column), (width, 1), (depth, columns)):
        return "".join(lead), a, b
    if (width, height) == (depth, columns) and _fits((row, column), (1, width), (depth, columns)):
        return "".join(lead), b, a
    return None


def _fits(steps: tuple[Extent, ...], wanted: tuple[Extent, ...], dims: tuple[Extent, ...]) -> bool:
    return all(d == 1 or s == w for s, w, d in zip(steps, wanted, dims, strict=True))


class Writer(KernelWriter):
    """Writes the kernel of one problem. In each cell, some rows may be multiplied ``before`` those
    of the left operand.
    """

    before = 0

    def __init__(self, at: Instruction, machine: Machine, problem: Problem) -> None:
        super().__init__(at, machine)
        self.problem = problem
        self.items = product(extent for extent, _ in problem.batch)
        extents = problem.rows + self.before, problem.columns, problem.depth, self.items
        self.tile = self._tile(chosen(machine, problem.sum, *extents))
        self.format = self._format()
        self.rows, self.columns, self.depth = (
            self.frame.extent(e) for e in (problem.rows, problem.columns, problem.depth)
        )
        self.strips = self.tile.strips(None if self.before else problem.rows)
        lanes = self.tile.lanes
        self.epilogue = Epilogue(self.frame, problem.epilogue, problem.sum, lanes, problem.rows)
        self.whole = isinstance(problem.columns, int) and problem.columns % lanes == 0
        self.widens = type_of(problem.types[0]) != problem.sum

    def _tile(self, tile: Tile) -> Tile:
        """The tile, adapted from the chosen one."""
        return tile

    def _format(self) -> str | None:
        """The weight format of panels, if the right operand is a literal."""
        return self.problem.format(self.tile.columns)

    # The outer loops.

    def kernel(self) -> Kernel:
        f, tile, problem = self.f, self.tile, self.problem
        blocks = (problem.rows + tile.block - 1) // tile.block
        panels = (problem.columns + tile.columns - 1) // tile.columns
        cells = blocks * panels * self.items
        work = 2 * minimum(problem.rows, tile.block) * tile.columns * problem.depth
        share = maximum(WORTH // maximum(work, 1), 1)
        self._divide_scratch()
        begin, end = (
            limit * self.frame.extent(share) for limit in (self.frame.begin, self.frame.end)
        )
        end = f.minimum(end, self.frame.extent(cells))
        with f.loop(begin, end, carry=[f.as_index(-1)]) as number:
            many, across = self.frame.extent(blocks), self.frame.extent(panels)
            top = number.index % many * tile.block
            side = number.index // many
            item, panel = side // across, side % across
            number.carry(self._cell(top, panel * tile.columns, item, side, number.carried[0]))
        return self.frame.finished(
            "dot" if len(problem.epilogue.nodes) == 1 else "dot and epilogue",
            (cells + share - 1) // share,
            flops=2 * self.items * problem.rows * problem.columns * problem.depth
            + problem.epilogue.flops,
            formats=self._formats(),
            over=self._over(),
        )

    def _formats(self) -> tuple[tuple[int, str], ...]:
        right = self.problem.right
        return () if self.format is None or right is None else ((right, self.format),)

    def _divide_scratch(self) -> None:
        """Takes the sums, the widened rows, and a packed panel."""
        tile, take = self.tile, self.frame.take
        room = (self.problem.depth + tile.lanes - 1) // tile.lanes * tile.lanes
        rows = tile.block + self.before * tile.rows
        self.all_sums = take(rows * tile.columns, tile.sum)
        self.sums = self.f.element(self.all_sums, self.before * tile.columns, tile.sum)
        self.staged = take(rows * tile.depth * self.widens, tile.sum)
        packed = self.format or self._is_packed()
        self.panel = take(0 if packed else room * tile.columns, tile.sum)

    def _cell(self, top: Value, left: Value, item: Value, side: Value, packed: Value) -> Value:
        """One cell; gives the number of the panel that is now packed."""
        f, tile, problem = self.f, self.tile, self.problem
        rows = f.as_index(tile.block)
        if not isinstance(problem.rows, int) or problem.rows % tile.block:
            rows = f.minimum(self.rows - top, tile.block)
        of_left, of_right = self._offsets(item)
        lines = Matrix.of(self.frame, problem.left, problem.left_steps, problem.types[0], of_left)
        right = self._panel(of_right, left, side, packed)
        if problem.depth == tile.depth:
            self._add(lines.moved(top, 0), right, rows, self.depth, fresh=True)
        else:
            zero = f.const(tile.vector, 0)
            with f.loop(0, (rows + self.before) * tile.vectors) as at:
                f.store(zero, f.element(self.all_sums, at.index * tile.lanes, tile.sum))
            with f.loop(0, self.depth, tile.depth) as k:
                deep = self._deep(k.index)
                further = lines.moved(top, k.index)
                self._add(further, right.moved(k.index, 0), rows, deep, fresh=False)
        there = f.minimum(self.columns - left, tile.columns)
        self._complete(rows)
        to = Destination(item, top, left, rows)
        self.epilogue.write_lines(to, self.sums, tile.columns, there, whole=self.whole)
        return side

    def _add(self, lines: Matrix, right: Matrix, rows: Value, depth: Value, *, fresh: bool) -> None:
        """Adds a part of the depth to the sums."""
        left = self._left(lines, rows, depth)
        accumulate(
            self.tile,
            self.all_sums,
            left,
            right,
            rows + self.before,
            depth,
            self.strips,
            fresh=fresh,
            ahead=self.format is not None and bounds(self.problem.rows)[1] >= BLOCK // 2,
            multiply=self._multiply,
        )

    def _multiply(self, f: Function, one: Value, vector: Value, total: Value) -> Value:
        """A total plus the product of an element of a row and a vector of the panel."""
        return f.muladd(one, vector, total)

    def _complete(self, rows: Value) -> None:
        """A hook for what the sums of a cell need when all products are added."""

    def _deep(self, begin: Value) -> Value:
        """The part of the depth that is added in the iteration that begins here."""
        depth, step = self.problem.depth, self.tile.depth
        if isinstance(depth, int) and depth % step == 0:
            return self.f.as_index(step)
        return self.f.minimum(self.depth - begin, step)

    def _offsets(self, item: Value) -> tuple[Value, Value]:
        """The offsets of the two matrices of an item of the batch."""
        problem, frame = self.problem, self.frame
        dims = tuple(extent for extent, _ in problem.batch)
        left, right = ([steps[side] for _, steps in problem.batch] for side in (0, 1))
        if self.format is not None:
            right = [self._packed_step(step) for step in right]
        places = frame.places(item, dims, range(len(dims)))
        return frame.offset(left, places), frame.offset(right, places)

    @property
    def _right_type(self) -> DType:
        """The type as which columns are read."""
        return self.problem.types[1]

    def _packed_step(self, step: Extent) -> Extent:
        """The stride between packed matrices, given that between the originals."""
        problem = self.problem
        panels = (problem.columns + self.tile.columns - 1) // self.tile.columns
        return (
            step // (problem.depth * problem.columns) * panels * problem.depth * self.tile.columns
        )

    # Operands.

    def _left(self, lines: Matrix, rows: Value, depth: Value) -> Matrix:
        """The rows in place, or widened in scratch."""
        if not self.widens:
            return lines
        return staged(self.tile, lines, rows, depth, self.staged)

    def _panel(self, offset: Value, column: Value, side: Value, packed: Value) -> Matrix:
        """The panel with this first column, ready to be read by vectors."""
        f, tile, problem = self.f, self.tile, self.problem
        made = Matrix.dense(self.panel, tile.columns, SUMS[tile.sum])
        missing = f.compare("ne", side, packed)
        if problem.right is None:
            with f.when(missing):
                self._compute(made, column)
            return made
        right = Matrix.of(self.frame, problem.right, problem.right_steps, self._right_type, offset)
        if self.format is not None:
            panel = Matrix.dense(right.first, tile.columns, right.dtype)
            return panel.moved(column // tile.columns * self.depth, 0)
        if self._is_packed():
            return right
        there = right.moved(0, column)
        if not self._may_be_direct():
            with f.when(missing):
                self._pack(there, made, self.columns - column)
            return made
        whole = (self.columns - column) >= tile.columns
        direct = whole & (self.rows <= tile.rows)
        with f.when(missing & ~direct):
            self._pack(there, made, self.columns - column)
        return replace(
            there,
            first=f.select(direct, there.first, made.first),
            row=f.select(direct, there.row, made.row),
        )

    def _is_packed(self) -> bool:
        """Whether the matrix on the right already has the layout of one panel."""
        problem, width = self.problem, self.tile.columns
        lies = problem.columns == width and problem.right_steps == (width, 1)
        return lies and problem.right is not None and type_of(self._right_type) == self.tile.sum

    def _may_be_direct(self) -> bool:
        """Whether a panel on the right may be read in place, for some sizes."""
        problem, tile = self.problem, self.tile
        few = bounds(problem.rows)[0] <= tile.rows and bounds(problem.columns)[1] >= tile.columns
        return few and problem.right_steps[1] == 1 and type_of(problem.types[1]) == tile.sum

    def _pack(self, given: Matrix, made: Matrix, columns: Value) -> None:
        """Copies the columns that exist to a panel."""
        f, tile = self.f, self.tile
        gather_columns(
            given.turned,
            (columns, self.depth),
            made,
            tile.columns,
            tile.lanes,
            lambda vector: widened(f, vector, given.dtype, tile.sum),
        )

    def _compute(self, made: Matrix, column: Value) -> None:
        """Computes a panel from the inputs of its elements."""
        f, tile, frame, kernel = self.f, self.tile, self.frame, self.problem.computed
        assert kernel is not None
        assert self.problem.literal is not None
        depth = "ab".index(self.problem.literal[1])
        with f.loop(0, self.depth) as k, f.loop(0, tile.columns, tile.lanes) as j:
            mask = f.first_lanes(self.columns - column - j.index, tile.lanes)

            def read(access: Access) -> Value:
                whole = Matrix.of(frame, access.operand, access.strides, access.dtype)
                whole = whole.turned if depth else whole
                return whole.loaded(k.index, column + j.index, tile.lanes, mask)

            value = evaluated(f, kernel.nodes, read)[kernel.outputs[0][0]]
            f.store(f.cast(f.splat(value, tile.lanes), tile.sum), made.at(k.index, j.index))

    def _over(self) -> tuple[tuple[int, int], ...]:
        """Operands of the epilogue alone whose memory the result may take."""
        problem = self.problem
        others = [] if problem.right is None else [problem.right]
        if problem.computed is not None:
            others = [access.operand for access in problem.computed.accesses]
        return problem.epilogue.in_place(problem.left, *others)
