"""Programs on a GPU as MIGraphX's Python module runs them."""

from __future__ import annotations

import numpy as np
import pytest

import migx.compat.migraphx as migraphx
from migx.errors import CompatError
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


def test_results_are_put_where_a_script_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migx.targets.gpu.devices.cupy_device.found", lambda: (DEVICE, ""))
    p = migraphx.program()
    main = p.get_main_module()
    x = main.add_parameter("x", migraphx.shape(lens=[2, 3]))
    moved = main.add_instruction(migraphx.op("transpose", permutation=[1, 0]), [x])
    constant = main.add_literal(np.array([5.0, 6.0], np.float32))
    main.add_return([main.add_instruction(migraphx.op("relu"), [x]), moved, constant])
    assert p.get_parameter_names() == ["x"]
    p.compile(migraphx.get_target("gpu"), offload_copy=False)
    shapes = p.get_parameter_shapes()
    assert list(shapes) == ["x", *(f"main:#output_{i}" for i in range(3))]
    assert shapes["main:#output_1"].lens() == [3, 2]
    placed = {name: migraphx.allocate_gpu(shape) for name, shape in shapes.items()}
    given = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    placed["x"] = migraphx.to_gpu(migraphx.argument(given))
    pointed = {
        name: migraphx.argument_from_pointer(shapes[name], value.data_ptr())
        for name, value in placed.items()
    }
    for results in (p.run(placed), p.run(pointed), p.run_async(placed, 0, "ihipStream_t")):
        migraphx.gpu_sync()
        for i, wanted in enumerate((np.maximum(given, 0), given.T, np.array([5.0, 6.0]))):
            place = placed[f"main:#output_{i}"]
            assert np.array_equal(np.array(place), wanted)
            assert results[i].data_ptr() == place.data_ptr()
    with pytest.raises(CompatError, match="'main:#output_0' is float_type, .3, 2.* not float_type"):
        p.run(placed | {"main:#output_0": placed["main:#output_1"]})
