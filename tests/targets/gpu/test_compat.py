"""Programs on a GPU as MIGraphX's Python module runs them."""

from __future__ import annotations

import numpy as np
import pytest

import migx.compat.migraphx as migraphx
from tests.targets.gpu.on_interpreter import DEVICE


def test_arguments_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migx.targets.gpu.devices.cupy_device.found", lambda: (DEVICE, ""))
    shape = migraphx.shape(lens=[4, 4])
    p = migraphx.program()
    main = p.get_main_module()
    x, y = (main.add_parameter(name, shape) for name in ("x", "y"))
    main.add_return([main.add_instruction(migraphx.op("add"), [x, y])])
    inputs = {name: migraphx.generate_argument(shape, seed) for seed, name in enumerate(("x", "y"))}
    wanted = np.array(inputs["x"]) + np.array(inputs["y"])
    p.compile(migraphx.get_target("gpu"))
    assert np.array_equal(np.array(p.run(inputs)[0]), wanted)

    p.compile(migraphx.get_target("gpu"), offload_copy=False)
    placed = {name: migraphx.to_gpu(value) for name, value in inputs.items()}
    assert placed["x"] == inputs["x"]
    pointed = migraphx.argument_from_pointer(shape, inputs["y"].data_ptr())
    for results in (
        p.run(placed),
        p.run({**placed, "y": pointed}),
        p.run_async(placed, 0, "ihipStream_t"),
    ):
        migraphx.gpu_sync()
        assert results[0].value.elsewhere
        assert np.array_equal(np.array(migraphx.from_gpu(results[0])), wanted)
    assert migraphx.allocate_gpu(shape).tolist() == [0] * 16
