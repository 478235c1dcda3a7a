"""Kernels of ``pooling``: a program has a line of windows, whose elements it takes one by one."""

from __future__ import annotations

from migx.dim import product
from migx.ir import Instruction
from migx.ops._windows import split
from migx.ops.pooling import Pooling
from migx.targets.gpu import elements
from migx.targets.gpu.text import COMPUTING, Expr, Kernel, Part, Writer, storable, tiles, whole

LINE = 256
"""Windows of a tile."""


def kernel_for(at: Instruction) -> Kernel | None:
    """The kernel of a pooling whose windows have known sizes."""
    op = at.op
    if type(op) is not Pooling or not storable(at.shape.dtype):
        return None
    if op.mode == "lpnorm" and (op.lp_order not in (1, 2) or not at.shape.dtype.is_float):
        return None
    if not all(isinstance(e, int) for e in op.lengths):
        return None
    return _Writer(at, op).kernel()


class _Writer:
    """Writes the kernel of one pooling."""

    def __init__(self, at: Instruction, op: Pooling) -> None:
        self.at, self.op, self.writer = at, op, Writer(at)
        self.lengths = tuple(int(e) for e in op.lengths)
        self.dtype = at.shape.dtype
        self.adds, self.average = op.mode != "max", op.mode == "average"

    def kernel(self) -> Kernel:
        """The whole of it."""
        w, at, op = self.writer, self.at, self.op
        count = product(at.shape.dims)
        index = w.numbers(0, 1, LINE, w.let(w.program * LINE))
        if not whole(count, LINE):
            w.masks[0] = w.let(index.below(w.extent(count)))
        self.places = w.split(Part(index, at.shape.dims))
        start = "0" if self.adds else self._lowest()
        kind = COMPUTING[self.dtype.name]
        total = w.variable(f"tl.full([{LINE}], {start}, {kind})", frozenset({0}))
        seen = w.variable(f"tl.zeros([{LINE}], {kind})", frozenset({0}))
        with w.loop(product(self.lengths), 1) as tap:
            self._tap(tap, total, seen)
        value = total
        if self.average:
            value = w.let(Expr(elements.quotient(total.text, seen.text, self.dtype), total.over))
        elif op.mode == "lpnorm" and op.lp_order == 2:
            value = w.let(Expr(elements.square_root(total.text, self.dtype), total.over))
        where = w.offset([Part(index, at.shape.dims)], at.shape.true_strides)
        w.store(1, w.spread(where, [LINE]), value, self.dtype)
        return w.finished(at.name, tiles(count, LINE), flops=count * product(self.lengths))

    def _lowest(self) -> str:
        low, _ = elements.limits(self.dtype)
        return f'float("{low}")' if self.dtype.is_float else repr(low)

    def _tap(self, tap: Expr, total: Expr, seen: Expr) -> None:
        """Takes one element of each window."""
        w, op = self.writer, self.op
        dims = self.at.inputs[0].shape.dims
        begins, ends = split(op.padding)
        counted: Expr | None = None
        inside: Expr | None = None
        places = self.places[:2]
        taps = w.split(Part(tap, self.lengths))
        for axis, step in enumerate(taps):
            pixel = self.places[2 + axis] * op.stride[axis]
            place = w.let(pixel + step * op.dilation[axis] - w.extent(begins[axis]))
            size = w.extent(dims[2 + axis])
            here = Expr(f"(({place.text} >= 0) & ({place.text} < {size.text}))", place.over)
            around = place.below(w.extent(dims[2 + axis] + ends[axis]))
            inside = here if inside is None else inside & here
            counted = around if counted is None else counted & around
            places.append(place)
        assert inside is not None
        assert counted is not None
        parts = [Part(p, (d,)) for p, d in zip(places, dims, strict=True)]
        inside = w.spread(w.let(inside), [LINE])
        where = w.spread(w.offset(parts, self.at.inputs[0].shape.true_strides), [LINE])
        value = w.load(0, where, self.dtype, also=inside)
        if self.adds:
            x = value.text
            if op.mode == "lpnorm":
                x = f"tl.abs({x})" if op.lp_order == 1 else f"{x} * {x}"
            w.line(f"{total.text} += tl.where({inside.text}, {x}, 0)")
            many = counted if op.count_include_pad else inside
            w.line(f"{seen.text} += tl.where({many.text}, 1, 0)")
        else:
            greater = elements.extreme(True, total.text, value.text, self.dtype)
            w.line(f"{total.text} = tl.where({inside.text}, {greater}, {total.text})")
