"""Where the lines of a tomograph run: any rays, and parallel beams. Scanners made of rings are in scanner.py."""

import dataclasses
import math

import torch

from ..arguments import Array, Positive, checked
from ..notices import warn
from .operator import check_rows
from .space import finite

__all__ = ["Geometry", "Rays", "ParallelBeam"]


class Geometry:
    """Lines in the order of a sinogram of the given `shape`; its first axis is what subsets take apart (views, events).

    A subclass has `shape`, `ndim` (2 or 3, the dimension of space) and `ends(*index)`: the two end points of the lines at these indices (one broadcasting
    int64 tensor an axis of the shape), each (..., ndim) float64, in mm, in the order of an image's axes: (y, x) or (z, y, x). A line whose ends agree counts nothing.
    """

    shape: tuple[int, ...]
    ndim: int
    _such_as = "CylindricalScanner(...)"
    live: torch.Tensor | None = None                # which lines exist, broadcasting against the shape; None: all
    multiplicity: torch.Tensor | None = None        # how many lines of the scanner add up in one, broadcasting against the shape; None: one

    def ends(self, *index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError(f"{type(self).__name__} defines no ends(*index); add it to the class.")

    def rows(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The ends of all lines whose first index is in `index`."""
        grid = torch.meshgrid(index, *(torch.arange(n) for n in self.shape[1:]), indexing="ij")
        return self.ends(*grid)

    def subset(self, index: torch.Tensor | slice) -> "Geometry":
        """The geometry of some rows (views, events) alone."""
        check_rows(self, index, self.shape[0])
        return _Subset(self, torch.arange(self.shape[0])[index.cpu() if torch.is_tensor(index) else index])

    def covering(self, radius: float) -> "Geometry":
        """The geometry with its lines long enough to leave a ball of `radius` mm about the origin; detectors have a place, so most return themselves."""
        return self


class _Subset(Geometry):
    def __init__(self, whole, index):
        self.whole, self.index = whole, index
        self.shape, self.ndim = (len(index), *whole.shape[1:]), whole.ndim
        for name in ("live", "multiplicity"):
            value = getattr(whole, name)
            split = value is not None and value.dim() == len(whole.shape) and value.shape[0] == whole.shape[0]
            setattr(self, name, value[index] if split else value)

    def ends(self, first, *others):
        return self.whole.ends(self.index[first], *others)

    def covering(self, radius):
        return _Subset(self.whole.covering(radius), self.index)


@checked
class Rays(Geometry):
    """Lines by their end points: `start`, `end` (..., 2) or (..., 3) in mm, in the order (y, x) or (z, y, x). Raises ValueError where shapes differ or a number is NaN."""

    def __init__(self, start: Array, end: Array):
        start, end = (finite(v, "Rays", "tensor of end points").double().cpu() for v in (start, end))
        if start.shape != end.shape or start.dim() < 2 or start.shape[-1] not in (2, 3):
            raise ValueError(f"Rays got end points of shapes {tuple(start.shape)} and {tuple(end.shape)}; both need (..., 2) or (..., 3), of one shape.")
        self.start, self.end, self.shape, self.ndim = start, end, tuple(start.shape[:-1]), start.shape[-1]

    def ends(self, *index):
        return self.start[index], self.end[index]

    def rows(self, index):
        return self.start[index], self.end[index]

    def __repr__(self):
        return f"Rays({self.shape}, {self.ndim}-D)"


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class ParallelBeam(Geometry):
    """Parallel lines x cos(angle) + y sin(angle) = s in the plane, x along the columns of an image, y along its rows (downwards).

    Parameters
    ----------
    angles : (views,) in rad.
    bins, bin_width : how many lines a view, and their distance in mm; bin b lies at s = (b - (bins - 1) / 2) bin_width + offset.
    offset : of the middle of the detector, in mm.
    length : of every line in mm, about the foot of the perpendicular from the origin; None: as long as the image asks.
    """

    angles: Array
    bins: int
    bin_width: Positive = 1.0
    offset: float = 0.0
    length: float | None = None
    ndim = 2

    def __post_init__(self):
        angles = finite(torch.as_tensor(self.angles), "ParallelBeam", "tensor of angles").double().cpu()
        if angles.dim() != 1 or not len(angles):
            raise ValueError(f"ParallelBeam got angles of shape {tuple(angles.shape)}; it needs (views,), in rad.")
        if float(angles.abs().max()) > 8 * math.pi:
            warn(f"ParallelBeam got angles of up to {float(angles.abs().max()):.4g} rad, four turns or more; are they in degrees? torch.deg2rad converts them, "
                          "and angles % (2 * torch.pi) says that they are not.")
        if not (isinstance(self.bins, int) and self.bins >= 1 and self.bin_width > 0):
            raise ValueError(f"ParallelBeam got bins={self.bins}, bin_width={self.bin_width}; it needs a number of bins and a width in mm, both above 0.")
        object.__setattr__(self, "angles", angles)
        object.__setattr__(self, "shape", (len(angles), self.bins))

    def ends(self, view, bin):
        s, angle = (bin.double() - (self.bins - 1) / 2) * self.bin_width + self.offset, self.angles[view]
        normal = torch.stack(torch.broadcast_tensors(angle.sin(), angle.cos()), -1)
        along = torch.stack(torch.broadcast_tensors(angle.cos(), -angle.sin()), -1) * (self.length or 2 * self.bins * self.bin_width) / 2
        foot = s.unsqueeze(-1) * normal
        return foot - along, foot + along

    def covering(self, radius):
        return self if self.length else dataclasses.replace(self, length=2.0 * radius + 2 * self.bin_width)

    def __repr__(self):
        return f"ParallelBeam({self.shape[0]} views, {self.bins} bins of {self.bin_width:g} mm)"
