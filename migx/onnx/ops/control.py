"""ONNX control flow: nested graphs become submodules that capture values around them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from migx import dim, ops
from migx.dim import Dim, Extent
from migx.errors import DimError, MigxError, OnnxError, ShapeError
from migx.ir import Instruction, Module
from migx.iterations import ENDLESS, Iterations
from migx.onnx.graphs import named
from migx.onnx.importers import importer
from migx.onnx.node import Node
from migx.ops import sequences
from migx.shape import BOOL, I64, OPTIONAL, Shape


@importer("If")
def branch(node: Node) -> tuple[Instruction, ...]:
    """A known condition inlines the branch taken; otherwise both become modules.

    Where their dims differ, the result's are symbols known at run time. Ranks must be known: a
    one-element result gets the rank of the other branch's, which a ``DataWarning`` reports. If
    ranks differ otherwise, the first branch is taken, or the other if that fits the declared
    outputs, under an assumption that each run checks. The same applies if one branch is invalid at
    the given dims.
    """
    condition = node.reshape(node.input(0), ())
    graphs = [node.subgraph(f"{way}_branch") for way in ("then", "else")]
    held = node.contents(condition)
    if held is not None and held.dtype != object:
        return node.graph.inlined(graphs[0 if held.item() else 1])
    modules, refused = branches(node, graphs)
    if refused:
        (way,) = refused
        for module in modules:
            module.program.remove_module(module)
        return taken(node, graphs, condition, not way)
    remarks = level(node, *modules)
    pairs = list(zip(*(m.outputs for m in modules), strict=True))
    if all(a.shape.dtype is b.shape.dtype and a.shape.rank == b.shape.rank for a, b in pairs):
        outputs = tuple(joined(node, a.shape, b.shape, str(i)) for i, (a, b) in enumerate(pairs))
        node.graph.model.remarks.update(dict.fromkeys(remarks))
        return node.elements(node.add(ops.If(outputs), condition, modules=modules), len(outputs))
    for module in modules:
        module.program.remove_module(module)
    node.graph.model.first_taken.add(node.label)
    return taken(node, graphs, condition, not node.graph.model.other)


def branches(
    node: Node, graphs: Sequence[onnx.GraphProto]
) -> tuple[list[Module], dict[bool, MigxError]]:
    """The modules of the two branches, and the error of one that is invalid at the given dims. If
    both are invalid, raises the error of the first.
    """
    modules, refused = list[Module](), dict[bool, MigxError]()
    model = node.graph.model
    for way, graph in zip((True, False), graphs, strict=True):
        choices = len(model.first_taken)
        try:
            modules.append(node.graph.submodule(graph, f"if.{'then' if way else 'else'}"))
        except (ShapeError, OnnxError) as error:
            if isinstance(error, OnnxError) and not isinstance(error.__cause__, DimError):
                raise
            refused[way] = error
            if len(model.first_taken) > choices:
                model.misled.add(node.label)
    if len(refused) == 2:
        raise refused[True]
    return modules, refused


def taken(
    node: Node, graphs: Sequence[onnx.GraphProto], condition: Instruction, way: bool
) -> tuple[Instruction, ...]:
    """The results of one branch, under the assumption that each run takes it."""
    values = node.graph.inlined(graphs[0 if way else 1])
    return tuple(node.assumed(v, condition, way) for v in values)


def level(node: Node, first: Module, second: Module) -> list[str]:
    """Gives one-element results the larger of the ranks they have in two branches, with a remark on
    each that differs. After broadcasting with a value of that rank, as is common, there is no
    difference; Shape, and users of the model's outputs, may see it.
    """
    pairs = list(zip(first.outputs, second.outputs, strict=True))
    ranks = [
        max(a.shape.rank, b.shape.rank) if a.shape.elements == b.shape.elements == 1 else None
        for a, b in pairs
    ]
    for module in (first, second):
        values, names, returned = list(module.outputs), module.output_names, module.returned
        for i, rank in enumerate(ranks):
            if rank is not None and values[i].shape.rank < rank:
                values[i] = module.insert_instruction(returned, ops.Reshape((1,) * rank), values[i])
        if returned is not None and tuple(values) != module.outputs:
            module.remove_instruction(returned)
            module.add_return(*values, names=names)
    return [
        f"{named(node.proto)}: its result {name!r} is of one element, of rank {a.shape.rank} if "
        f"the condition holds and of rank {b.shape.rank} if not; here it has rank {rank} in both "
        "cases"
        for name, (a, b), rank in zip(node.proto.output, pairs, ranks, strict=False)
        if rank is not None and a.shape.rank != b.shape.rank
    ]


def joined(node: Node, a: Shape, b: Shape, hint: str) -> Shape:
    """The shape of values of either branch: dims that differ become new symbols."""
    if not a.dtype.is_tensor:
        return sequences.joined(a, b)
    pairs = enumerate(zip(a.dims, b.dims, strict=True))
    return a.with_dims([x if x == y else node.fresh(f"{hint}.{i}") for i, (x, y) in pairs])


@importer("Loop")
def loop(node: Node) -> tuple[Instruction, ...]:
    """The body is read with the initial dims of carried values; dims that it changes become
    symbols, and it is read again.
    """
    trips = node.optional(0) or node.add(ops.Undefined())
    condition = node.optional(1) or node.add(ops.Undefined())
    trips, condition = (node.reshape(v, ()) if v.shape.rank else v for v in (trips, condition))
    carried = node.operands(2)
    graph = node.subgraph("body")
    shapes = [v.shape.as_standard() for v in carried]
    unread: set[int] = set()
    while True:
        body = node.graph.submodule(
            graph, "loop.body", [Shape(I64), Shape(BOOL), *shapes], counted=True
        )
        wrapped = keep_optional(node, body, shapes)
        results = [v.shape for v in body.outputs[1 : 1 + len(carried)]]
        unread |= start_as_they_end(node, body, carried, results)
        changed = [
            widened(node, a if v.shape.rank == a.rank else v.shape, b, str(i))
            for i, (v, a, b) in enumerate(zip(carried, shapes, results, strict=True))
        ]
        if changed == shapes:
            break
        body.program.remove_module(body)
        shapes = changed
    count = trip_count(node, trips, condition, body)
    finals = [escaped(node, s, str(i)) for i, s in enumerate(shapes)]
    rows = [
        escaped(node, v.shape, f"scan.{i}") for i, v in enumerate(body.outputs[1 + len(carried) :])
    ]
    outputs = (*finals, *(row.with_dims((count, *row.dims)) for row in rows))
    whole = node.add(ops.Loop(outputs), trips, condition, *carried, modules=[body])
    made = list(node.elements(whole, len(outputs)))
    for i in wrapped:
        held = body.outputs[1 + i].inputs[0].shape
        made[i] = node.add(ops.OptionalGetElement(escaped(node, held, str(i))), made[i])
    for i in unread:
        made[i] = node.add(ops.Assume(True), made[i], begun(node, trips, condition))
    return tuple(made)


def start_as_they_end(
    node: Node, body: Module, carried: list[Instruction], results: Sequence[Shape]
) -> set[int]:
    """Gives initial values of a loop the ranks that its body returns: more axes to a single number,
    and zeros instead of a value that the body does not read, which is there only because ONNX
    requires one. Returns the indices of these zeros.
    """
    replaced = set()
    given = list(body.parameters.values())[2:]
    for i, (value, after, parameter) in enumerate(zip(carried, results, given, strict=True)):
        before = value.shape
        if (
            before.dtype is not after.dtype
            or not after.dtype.is_tensor
            or before.rank == after.rank
        ):
            continue
        if before.elements == after.elements == 1 and before.rank < after.rank:
            carried[i] = node.reshape(value, (1,) * after.rank)
        elif not parameter.users:
            dims = tuple(d if isinstance(d, int) else 0 for d in after.dims)
            carried[i] = node.add(ops.Multibroadcast(dims), node.literal(0, after.dtype))
            replaced.add(i)
    return replaced


def begun(node: Node, trips: Instruction, condition: Instruction) -> Instruction:
    """Whether a loop runs its body at all."""
    begins = node.literal(True)
    if condition.shape.dtype is BOOL:
        begins = condition
    if trips.shape.dtype is I64:
        some = node.add(ops.Greater(), trips, 0)
        begins = node.add(ops.LogicalAnd(), begins, some)
    return begins


def keep_optional(node: Node, body: Module, carried: Sequence[Shape]) -> list[int]:
    """Makes a carried value that is an optional at first, and what it contains later, as ONNX
    permits, an optional throughout. Returns their indices.
    """
    results, names = list(body.outputs), body.output_names
    wrapped = [
        i
        for i, (shape, value) in enumerate(zip(carried, results[1:], strict=False))
        if shape.dtype is OPTIONAL and value.shape.dtype is not OPTIONAL
    ]
    if wrapped and body.returned is not None:
        body.remove_instruction(body.returned)
        for i in wrapped:
            results[1 + i] = body.add_instruction(ops.MakeOptional(), results[1 + i])
        body.add_return(*results, names=names)
    return wrapped


def widened(node: Node, before: Shape, after: Shape, hint: str) -> Shape:
    """The shape of a carried value at any iteration: dims that change become symbols."""
    if before.dtype is not after.dtype or before.rank != after.rank:
        raise node.fail(f"a carried value goes in as {before} and comes out as {after}")
    if not before.dtype.is_tensor:
        return sequences.joined(before, after)
    pairs = enumerate(zip(before.dims, after.dims, strict=True))
    own = f"{node.label}.{hint}"
    return before.with_dims(
        [a if a == b or is_own(a, own) else node.fresh(f"{hint}.{i}") for i, (a, b) in pairs]
    )


def is_own(extent: Extent, prefix: str) -> bool:
    """Whether a dim is a carried value's symbol, whose size may differ in each iteration."""
    symbol = extent.symbol if isinstance(extent, Dim) else None
    return symbol is not None and symbol.name.startswith(prefix)


def trip_count(node: Node, trips: Instruction, condition: Instruction, body: Module) -> Extent:
    """The number of iterations, if known: the trip count, if nothing ends the loop earlier."""
    ends, state = body.outputs[0], tuple(body.parameters.values())[:2]
    for value in (trips, condition, ends):
        node.contents(value)  # is read now if it was left out
    told = Iterations(body, ENDLESS, (), (), (), trips, condition, ends, state).count
    return node.fresh("trips") if told is None else told


def escaped(node: Node, shape: Shape, hint: str) -> Shape:
    """The shape outside the loop: dims over symbols known only in the body become new symbols."""
    if not shape.dtype.is_tensor:
        return shape
    known = node.graph.known_symbols()
    dims = [
        d if all(s.name in known for s in dim.symbols(d)) else node.fresh(f"{hint}.{i}")
        for i, d in enumerate(shape.dims)
    ]
    return shape.with_dims(dims)


@importer("Scan", since=8)
def scan_of_batch(node: Node) -> tuple[Instruction, ...]:
    """Version 8 scans each batch item: a Scan over the batch of a later version's Scan."""
    if node.has("scan_input_axes"):
        return of_sequence(node)
    if node.optional(0) is not None:
        raise node.fail("sequences of different lengths (sequence_lens) are not supported")
    operands = node.operands(1)
    taken = [f"{node.label}.input.{i}" for i in range(len(operands))]
    made = [f"{node.label}.output.{i}" for i in range(len(node.proto.output))]
    scans = node.integer("num_scan_inputs")
    one = onnx.helper.make_node(
        "Scan",
        taken,
        made,
        node.label,
        body=node.subgraph("body"),
        num_scan_inputs=scans,
        scan_input_axes=[0] * scans,
        scan_input_directions=node.integers("directions", (0,) * scans),
    )
    inputs, outputs = ([onnx.ValueInfoProto(name=n) for n in v] for v in (taken, made))
    graph = onnx.helper.make_graph([one], "batch", inputs, outputs)
    members = [v.shape.with_dims(v.shape.dims[1:]) for v in operands]
    body = node.graph.submodule(graph, "scan.batch", members)
    op = ops.Scan(len(operands))
    return node.elements(node.add(op, *operands, modules=[body]), len(body.outputs))


@importer("Scan", since=9)
def scan(node: Node) -> tuple[Instruction, ...]:
    return of_sequence(node)


def of_sequence(node: Node) -> tuple[Instruction, ...]:
    """A Scan without a batch, from version 9 on."""
    graph = node.subgraph("body")
    count = node.integer("num_scan_inputs")
    operands = node.operands()
    states = operands[:-count]
    axes = [
        node.axis(a, v.shape.rank)
        for a, v in zip(
            node.integers("scan_input_axes", (0,) * count), operands[-count:], strict=True
        )
    ]
    scanned = of_one_length(node, operands[-count:], axes)
    slices = [
        v.shape.with_dims([d for i, d in enumerate(v.shape.dims) if i != a])
        for a, v in zip(axes, scanned, strict=True)
    ]
    body = node.graph.submodule(
        graph, "scan.body", [*(v.shape.as_standard() for v in states), *slices]
    )
    rows = body.outputs[len(states) :]
    given: Sequence[int] = node.integers("scan_output_axes", (0,) * len(rows))
    out_axes = tuple(node.axis(a, v.shape.rank + 1) for a, v in zip(given, rows, strict=True))
    op = ops.Scan(
        count,
        tuple(axes),
        node.integers("scan_input_directions", (0,) * count),
        out_axes,
        node.integers("scan_output_directions", (0,) * len(rows)),
    )
    return node.elements(node.add(op, *states, *scanned, modules=[body]), len(body.outputs))


def of_one_length(
    node: Node, scanned: Sequence[Instruction], axes: Sequence[int]
) -> list[Instruction]:
    """The scan inputs with one length in their shapes. Exporters name that of each input apart: a
    reshape, which moves nothing, then refuses those that differ in a run.
    """
    lengths = [v.shape.dims[axis] for v, axis in zip(scanned, axes, strict=True)]
    length = next((n for n in lengths if isinstance(n, int)), lengths[0])
    if not all(dim.may_equal(n, length) for n in lengths):
        return list(scanned)  # the scan refuses them
    return [
        node.reshape(v, [length if i == axis else d for i, d in enumerate(v.shape.dims)])
        for v, axis in zip(scanned, axes, strict=True)
    ]
