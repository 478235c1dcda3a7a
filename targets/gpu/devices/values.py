"""Values in the memory of a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from migx.argument import Argument
from migx.errors import InputError
from migx.planning import is_memory
from migx.shape import Shape
from migx.targets.gpu.devices.device import Device, flat
from migx.targets.gpu.devices.dlpack import CPU, MANAGED, ROCM, Lent, exported, imported, interfaced

LOADED = 16
"""Kernels load so many bytes at once from values known to be aligned to them."""


class DeviceArgument(Argument):
    """A value of static shape on a device. Its data on the host is a read-only copy; libraries that
    support DLPack or, on a GPU, ``__cuda_array_interface__``, get the memory itself, and wait for
    the value on their own stream.
    """

    __slots__ = ("address", "buffer", "device")
    elsewhere = True

    def __init__(self, shape: Shape, device: Device, buffer: Any, address: int) -> None:
        super().__init__(shape)
        self.device, self.buffer, self.address = device, buffer, address

    @classmethod
    def of_host(cls, value: Argument, device: Device) -> Argument:
        """A host value, copied to a device in standard layout; the value itself if it is not a
        tensor.
        """
        if is_on(value, device) or not is_memory(value.shape):
            return value
        return cls.uploaded(value, value.shape.as_standard(), device)

    @classmethod
    def uploaded(cls, value: Argument, shape: Shape, device: Device) -> DeviceArgument:
        """A value copied to a device, in the layout of a shape."""
        buffer = device.allocate(int(shape.nbytes))
        device.upload(buffer.address, flat(laid_out(value.array, shape)))
        return cls(shape, device, buffer, buffer.address)

    @classmethod
    def borrowed(cls, value: Any, device: Device) -> Argument | None:
        """Another library's value that is on a device already, used in place, after the work that
        the library has enqueued; None for other memory. Raises ``InputError`` if it is on another
        GPU, or of an unsupported type.
        """
        where = _place(value, device)
        if where is None:
            return None
        if where != device.place:
            number = device.place[1]
            raise InputError(f"it lies on GPU {where[1]}, but the program runs on {number}")
        lent = _lent(value, device)
        return cls(lent.shape, device, lent.owner, lent.address)

    @classmethod
    def stack(cls, values: Sequence[Argument], axis: int) -> Argument:
        """Values stacked along an axis, on the device if all are there and each is contiguous in
        the result.
        """
        first, rows = values[0], [v for v in values if isinstance(v, DeviceArgument)]
        there = len(rows) == len(values) and all(v.shape.standard for v in rows)
        if not there or axis or first.shape.dtype.is_packed:
            return super().stack(values, axis)
        device, nbytes = rows[0].device, int(first.shape.nbytes)
        buffer = device.allocate(nbytes * len(rows))
        for number, row in enumerate(rows):
            device.move(buffer.address + number * nbytes, row.address, nbytes)
        shape = Shape(first.shape.dtype, (len(rows), *first.shape.dims))
        return cls(shape, device, buffer, buffer.address)

    def on_host(self) -> Argument:
        """The value, copied to the host, in standard layout."""
        return Argument(self.shape.as_standard(), downloaded(self.device, self.address, self.shape))

    @property
    def data(self) -> Any:
        array = downloaded(self.device, self.address, self.shape)
        array.flags.writeable = False
        return array

    @property
    def available(self) -> bool:
        return True

    # For other libraries.

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        if options.get("copy") or options.get("dl_device") not in (None, self.device.place):
            return super().__dlpack__(**options)
        if self.device.place[0] != CPU and stream != -1:
            usual = 0 if self.device.place[0] == ROCM else 1  # as DLPack has it
            self.device.order(self.device.stream, usual if stream is None else stream)
        return exported(self.address, self.shape, self.device.place, self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device.place

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        dtype = self.shape.dtype
        if self.device.place[0] == CPU or dtype.is_packed or dtype.numpy.kind not in "biuf":
            raise AttributeError(f"{self.shape} in this memory has no __cuda_array_interface__")
        step = dtype.bits // 8
        return {
            "shape": tuple(map(int, self.shape.dims)),
            "typestr": dtype.numpy.str,
            "data": (self.address, False),
            "strides": None
            if self.shape.standard
            else tuple(int(s) * step for s in self.shape.true_strides),
            "stream": self.device.stream or 1,
            "version": 3,
        }


def borrowed(inputs: Mapping[str, Any], device: Device | None) -> dict[str, Any]:
    """Inputs of a run, with those that are on the device wrapped as arguments. Raises
    ``InputError``, which names the input, if one cannot be used there.
    """
    found = dict(inputs)
    for name, value in inputs.items():
        if device is None or isinstance(value, (Argument, np.ndarray, np.generic)):
            continue
        try:
            made = DeviceArgument.borrowed(value, device)
        except InputError as error:
            raise InputError(f"input {name!r}: {error}") from error
        if made is not None:
            found[name] = made
    return found


def is_on(value: Argument, device: Device) -> TypeGuard[DeviceArgument]:
    """Whether a value is on a device."""
    return isinstance(value, DeviceArgument) and value.device is device


def lies_as(given: Shape, wanted: Shape) -> bool:
    """Whether a value has the wanted layout, given that the element counts are equal."""
    alike = given is wanted or (given.standard and wanted.standard)
    return alike or given.true_strides == wanted.true_strides


def placed(name: str, value: Argument, shape: Shape, device: Device) -> Argument:
    """A parameter's value as kernels read it: on the device, in the parameter's layout, aligned to
    16 bytes. Raises ``InputError`` if it is on the device in another layout.
    """
    if not is_on(value, device):
        return DeviceArgument.uploaded(value, shape, device)
    if not lies_as(value.shape, shape):
        raise InputError(
            f"input {name!r} is laid out as {value.shape} on the device, but kernels read {shape}: "
            "make it contiguous first"
        )
    if value.address % LOADED == 0:
        return value
    buffer = device.allocate(int(shape.nbytes))
    device.move(buffer.address, value.address, buffer.nbytes)
    return DeviceArgument(shape, device, buffer, buffer.address)


def laid_out(array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """The elements of an array in the layout of a shape, as flat memory."""
    if shape.dtype.is_packed or shape.standard:
        return array
    space = np.zeros(int(shape.element_space) * array.itemsize, np.uint8)
    _seen(space, shape)[...] = array
    return space


def _place(value: Any, device: Device) -> tuple[int, int] | None:
    """The device and number of a value, if it is in memory of the device's kind."""
    if hasattr(value, "__dlpack_device__"):
        kind, number = value.__dlpack_device__()
        found = device.place[0] if kind == MANAGED else int(kind), int(number)
        return found if found[0] == device.place[0] else None
    on_gpu = device.place[0] != CPU and hasattr(value, "__cuda_array_interface__")
    return device.place if on_gpu else None


def _lent(value: Any, device: Device) -> Lent:
    """The memory of a value, ordered for reading on the device's stream."""
    if hasattr(value, "__dlpack__"):
        try:
            options = {} if device.place[0] == CPU else {"stream": device.stream}
            return imported(value.__dlpack__(**options))
        except (BufferError, RuntimeError) as error:
            raise InputError(f"its memory cannot be shared: {error}") from error
    said = value.__cuda_array_interface__
    if said.get("stream") is not None:
        device.order(int(said["stream"]), device.stream)
    return interfaced(said, value)


def downloaded(device: Device, address: int, shape: Shape) -> NDArray[Any]:
    """A value of static shape, copied to the host, in standard layout; flat bytes if packed."""
    if shape.dtype.is_packed:
        held = np.empty(int(shape.nbytes), np.uint8)
        device.download(address, held)
        return held
    dims = tuple(int(d) for d in shape.dims)
    if 0 in dims:
        return np.empty(dims, shape.dtype.numpy)
    space = np.empty(int(shape.element_space) * shape.dtype.numpy.itemsize, np.uint8)
    device.download(address, space)
    return np.ascontiguousarray(_seen(space, shape)).reshape(dims)


def _seen(space: NDArray[np.uint8], shape: Shape) -> NDArray[Any]:
    """The elements in some bytes, in the layout of a static shape."""
    dims, kind = tuple(int(d) for d in shape.dims), shape.dtype.numpy
    return np.ndarray(
        dims, kind, space, strides=[int(s) * kind.itemsize for s in shape.true_strides]
    )
