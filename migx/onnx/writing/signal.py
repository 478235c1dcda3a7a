"""Writes signal transforms, and random numbers."""

from __future__ import annotations

import struct

from migx.dim import Dim
from migx.onnx import tensors
from migx.onnx.exporters import exporter
from migx.onnx.site import Site
from migx.shape import I64


@exporter("dft")
def dft(site: Site) -> str:
    op = site.op
    length = ""
    if len(site.at.inputs) == 2 and isinstance(op.length, Dim):
        length = site.scalar(1, I64)
    if op.length == site.at.inputs[0].shape.dims[op.axis] and not (op.inverse and op.onesided):
        length = ""
    elif not length:
        length = site.node("Squeeze", site.dims([op.length]), site.constant([0]))
    turns = {"inverse": int(op.inverse), "onesided": int(op.onesided)}
    return site.node("DFT", site.input(0), length, site.constant(op.axis), **turns)


@exporter("mel_weight_matrix")
def mel_weight_matrix(site: Site) -> str:
    names = (site.scalar(i) for i in range(5))
    return site.node("MelWeightMatrix", *names, output_datatype=tensors.code_of(site.op.to))


@exporter("random_uniform", "random_normal")
def drawn(site: Site) -> str:
    """In ONNX the runtime chooses the values for a seed; the seed's bits are those of its float."""
    op = site.op
    kind = "RandomUniform" if op.name == "random_uniform" else "RandomNormal"
    options = ("low", "high") if op.name == "random_uniform" else ("mean", "scale")
    attributes = {name: getattr(op, name) for name in options}
    if op.seed >= 1 << 32:
        raise site.fail(f"its seed {op.seed} has more than 32 bits")
    (attributes["seed"],) = struct.unpack(">f", struct.pack(">I", op.seed))
    attributes["dtype"] = tensors.code_of(op.to)
    if all(isinstance(d, int) for d in op.dims):
        return site.node(kind, shape=op.dims, **attributes)
    like = site.node("ConstantOfShape", site.dims(op.dims))
    return site.node(f"{kind}Like", like, **attributes)


@exporter("dropout_mask")
def dropout_mask(site: Site) -> str:
    training = site.constant(True, "bool")
    operands = site.input(0), site.input(1), training
    return site.nodes("Dropout", operands, 2, seed=site.op.seed)[1]
