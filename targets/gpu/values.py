"""Values in the memory of a device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx.argument import Argument
from migx.shape import Shape
from migx.targets.gpu.device import Buffer, Device, flat


class DeviceArgument(Argument):
    """A value of static shape on a device. Whoever looks at its data on the host gets a copy,
    which cannot be written to.
    """

    __slots__ = ("address", "buffer", "device")

    def __init__(self, shape: Shape, device: Device, buffer: Buffer, address: int) -> None:
        super().__init__(shape)
        self.device, self.buffer, self.address = device, buffer, address

    @classmethod
    def of_host(cls, value: Argument, device: Device) -> Argument:
        """A value of the host's, copied to a device; itself where it is no array."""
        shape = value.shape
        if isinstance(value, DeviceArgument) and value.device is device:
            return value
        if not (shape.dtype.is_tensor and shape.dtype.kind != "string"):
            return value
        buffer = device.allocate(int(shape.nbytes))
        device.upload(buffer.address, flat(value.array))
        return cls(shape.as_standard(), device, buffer, buffer.address)

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


def downloaded(device: Device, address: int, shape: Shape) -> NDArray[Any]:
    """A value of static shape, copied to the host, in standard layout; flat bytes if packed."""
    if shape.dtype.is_packed:
        held = np.empty(int(shape.nbytes), np.uint8)
        device.download(address, held)
        return held
    dims = tuple(int(d) for d in shape.dims)
    space = np.empty(int(shape.element_space) if 0 not in dims else 0, shape.dtype.numpy)
    device.download(address, space)
    if 0 in dims:
        return space.reshape(dims)
    steps = [int(s) * space.itemsize for s in shape.true_strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(space, dims, steps)).reshape(dims)
