"""Line integrals of images: Joseph's projector for any geometry, and the parallel-beam ray transform."""

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from ..arguments import Array, Device, InexactDtype, Numbers, Positive, Shape
from .geometry import Geometry, ParallelBeam
from .linear_function import linear_function
from .operator import LinearOperator, check_rows
from .rays import Crossings
from .space import Space, per_axis
from .time_of_flight import TimeOfFlight

Stored = Literal["auto", "stored", "matrix-free"]
__all__ = ["JosephProjector", "RayTransform"]

LIMIT = 2 * 2**30          # bytes of stored taps beyond which storage="auto" goes without
CHUNK = 2**20              # samples looked at together


class JosephProjector(LinearOperator):
    """(A x)_l = sum over samples of x along line l, in mm: the line integral of an image (linear interpolation, zero outside).

    Parameters
    ----------
    geometry : Geometry; `Rays(start, end)` for lines by their end points.
    shape : of the image, (y, x) or (z, y, x).
    voxel_size : mm, a number or one an axis.
    origin : the place of voxel (0, ..., 0)'s centre in mm, one number an axis; None puts the middle of the grid at 0.
    tof : TimeOfFlight; the range gets a last axis, the time bins.
    tof_bin : int64 tensor of the geometry's shape; each line then has this one time bin, and the range no axis for them.
    storage : "stored": the taps as sparse matrices, A and its adjoint both; "matrix-free": made anew in every product; "auto": stored where `bytes`, the
        estimate of their size, is at most 2 GiB.
    dtype, device : of the elements that the spaces make. An input of another real dtype or device is served in its own.

    Domain: (..., *shape); range: (..., *geometry.shape[, time bins]). `rows(index)` computes only these views. Stored taps are made at the first product; a batch is one
    product of a sparse and a dense matrix. Raises ValueError / TypeError for another shape, a voxel size that is not positive, complex or integer images.
    """

    def __init__(self, geometry: Geometry, shape: Sequence[int], voxel_size: Numbers = 1.0,
                 origin: Numbers | None = None, tof: TimeOfFlight | None = None, tof_bin: torch.Tensor | None = None, storage: Stored = "auto",
                 dtype: InexactDtype = torch.float32, device: Device = "cpu"):
        name = type(self).__name__
        if not isinstance(geometry, Geometry):
            raise TypeError(f"{name} got {geometry!r} as its geometry; it needs a Geometry, such as ParallelBeam(angles, bins) or Rays(start, end).")
        shape = tuple(int(n) for n in shape)
        if len(shape) != geometry.ndim or min(shape) < 1:
            raise ValueError(f"{name} got an image of shape {shape}; lines in {geometry.ndim}-D need {geometry.ndim} axes, each at least 1 (leading axes of the input are batch).")
        self.voxel_size = per_axis(voxel_size, len(shape), name, "voxel_size")
        if not (self.voxel_size > 0).all():
            raise ValueError(f"{name} got voxel_size={voxel_size}; it needs lengths in mm above 0.")
        middle = (torch.tensor(shape, dtype=torch.float64) - 1) / 2 * self.voxel_size
        self.origin = -middle if origin is None else per_axis(origin, len(shape), name, "origin")
        if tof_bin is not None and (tof is None or tuple(tof_bin.shape) != geometry.shape or not bool(((tof_bin >= 0) & (tof_bin < tof.bins)).all())):
            raise ValueError(f"{name} got time bins of shape {tuple(tof_bin.shape)}; it needs tof=, and for lines {geometry.shape} one bin each, 0 to bins - 1.")
        far = torch.maximum((self.origin - self.voxel_size).abs(), (self.origin + 2 * middle + self.voxel_size).abs())
        self.geometry, self.tof, self.tof_bin, self.storage = geometry.covering(float(torch.linalg.vector_norm(far))), tof, tof_bin, storage
        last = (tof.bins,) if tof is not None and tof_bin is None else ()
        self._matrices, self._bytes = {}, None
        super().__init__(Space(shape, dtype, device), Space((*geometry.shape, *last), dtype, device))

    # ---- what the rays are
    def _slabs(self, rows=None, device="cpu"):
        """The crossings of the lines on a device, some rows of the geometry at a time, and which lines they are."""
        g, per = self.geometry, max(torch.Size(self.geometry.shape[1:]).numel(), 1)
        rows = torch.arange(g.shape[0]) if rows is None else rows
        for part in rows.split(max(1, CHUNK // (per * max(self.domain.shape)))):
            start, end = (v.reshape(-1, g.ndim).to(device) for v in g.rows(part))
            lines = (part[:, None] * per + torch.arange(per)).flatten()
            for k in range(0, len(lines), max(1, CHUNK // max(self.domain.shape))):
                inside = slice(k, k + max(1, CHUNK // max(self.domain.shape)))
                yield lines[inside], Crossings(start[inside], end[inside], self.domain.shape, self.voxel_size.to(device), self.origin.to(device))

    @property
    def bytes(self) -> int:
        """An estimate of the bytes of the stored taps, A and adjoint, in the dtype of the domain: from the crossings of up to some 65,000 lines."""
        if self._bytes is None:
            views, per = self.geometry.shape[0], max(torch.Size(self.geometry.shape[1:]).numel(), 1)
            rows = torch.arange(views)[::max(1, views * per // 2**16)][:max(1, 2**16 // per)] if views * per > 2**16 else torch.arange(views)
            samples = sum(int(c.count.sum()) for _, c in self._slabs(rows)) * views / max(len(rows), 1)
            entries = samples * (2 ** (len(self.domain.shape) - 1) + (self.tof.reach if self.tof is not None and self.tof_bin is None else 0))
            self._bytes = round(entries * 2 * (self.domain.dtype.itemsize + 4))
        return self._bytes  # type: ignore[return-value]

    @property
    def stored(self) -> bool:
        return self.storage == "stored" or self.storage == "auto" and self.bytes <= LIMIT

    # ---- stored taps
    def _matrix(self, like):
        """The matrices (as _Pair) for the dtype and the device of `like`: [A], or [sampling, time bins]."""
        key = (like.dtype, like.device)
        if key not in self._matrices:
            import scipy.sparse  # slow to load, and needed only where taps are stored

            real, pixels = np.dtype(str(like.dtype).removeprefix("torch.")), self.domain.size
            taps, spread = [], []
            for lines, c in self._slabs():
                ray, plane = c.samples()
                place = None if self.tof is None else c.place[ray] + plane * c.pitch[ray]
                factor = None if self.tof_bin is None else self.tof.weight(place, self.tof_bin.flatten()[lines][ray])
                parts = c.taps(ray, plane, self.domain.shape)
                sample, voxel, weight = (torch.cat([p[i] for p in parts]) for i in range(3))
                weight = weight if factor is None else weight * factor[sample]
                apart = self.tof is not None and self.tof_bin is None
                row = sample if apart else ray[sample]
                taps.append(_csr(row, voxel, weight, (len(ray) if apart else len(lines), pixels), real))
                if apart:
                    bin = self.tof.lowest(place).unsqueeze(-1) + torch.arange(self.tof.reach)
                    share = self.tof.weight(place.unsqueeze(-1), bin)
                    keep = (bin >= 0) & (bin < self.tof.bins) & (share > 0)
                    row = torch.arange(len(ray)).unsqueeze(-1).expand_as(bin)[keep]
                    spread.append(_csr(row, (lines[ray].unsqueeze(-1) * self.tof.bins + bin)[keep], share[keep], (len(ray), self.range.size), real))
            pairs = [_Pair(scipy.sparse.vstack(taps, "csr"), like.device)]
            if spread:
                pairs.append(_Pair(scipy.sparse.vstack(spread, "csr").T.tocsr(), like.device))
            self._matrices[key] = pairs
        return self._matrices[key]

    # ---- matrix-free
    def _groups(self, like):
        """Per slab of lines and main axis: the lines, the axis, the sampling points, and what a sample counts for: step (rays,), time (p, rays, bins) or None."""
        for lines, c in self._slabs(device=like.device):
            lines = lines.to(like.device)
            for axis in range(len(self.domain.shape)):
                which = torch.nonzero((c.axis == axis) & (c.count > 0)).squeeze(-1)
                if not len(which):
                    continue
                part = c.select(which)
                planes, grid = part.grid(self.domain.shape, like.dtype)
                time = None
                if self.tof is not None:
                    bin = torch.arange(self.tof.bins, device=like.device) if self.tof_bin is None else self.tof_bin.flatten().to(like.device)[lines[which]].unsqueeze(-1)
                    time = self.tof.weight((part.place + planes[:, None] * part.pitch).unsqueeze(-1), bin).to(like.dtype)
                yield lines[which], axis, planes, grid, part.step.to(like.dtype), time

    def _slices(self, x, axis):
        """The planes across `axis` as images of batch channels: (planes, batch, h, w)."""
        x = x.movedim(axis + 1, 0)
        return x if len(self.domain.shape) == 3 else x.unsqueeze(-2)

    def _project_free(self, x):
        out = x.new_zeros(len(x), self.range.size if self.tof_bin is not None or self.tof is None else self.range.size // self.tof.bins, self._times)
        for lines, axis, planes, grid, step, time in self._groups(x):
            samples = torch.nn.functional.grid_sample(self._slices(x, axis)[planes], grid, padding_mode="zeros", align_corners=False).squeeze(-1)
            sums = samples.sum(0).unsqueeze(-1) if time is None else torch.einsum("pbr,prt->brt", samples, time)
            out[:, lines] = sums * step[:, None]
        return out.reshape(len(x), -1)

    def _back_project_free(self, y):
        y = y.reshape(len(y), -1, self._times)
        out = y.new_zeros(len(y), *self.domain.shape)
        for lines, axis, planes, grid, step, time in self._groups(y):
            slices = self._slices(out, axis)
            part = y[:, lines] * step[:, None]
            samples = part.squeeze(-1).expand(len(planes), -1, -1) if time is None else torch.einsum("brt,prt->pbr", part, time)
            back = torch.ops.aten.grid_sampler_2d_backward(samples.unsqueeze(-1).contiguous(), slices[planes], grid, 0, 0, False, [True, False])[0]
            slices[planes] += back
        return out.flatten(1)

    @property
    def _times(self):
        return self.tof.bins if self.tof is not None and self.tof_bin is None else 1

    # ---- products
    def _forward(self, x):
        flat = x.reshape(-1, *self.domain.shape)
        if self.stored:
            flat = flat.flatten(1)
            for pair in self._matrix(x):
                flat = pair.forward(flat)
        else:
            flat = self._project_free(flat)
        return flat.reshape(*x.shape[:x.dim() - self.domain.ndim], *self.range.shape)

    def _backward(self, y):
        flat = y.reshape(-1, self.range.size)
        if self.stored:
            for pair in reversed(self._matrix(y)):
                flat = pair.backward(flat)
        else:
            flat = self._back_project_free(flat)
        return flat.reshape(*y.shape[:y.dim() - self.range.ndim], *self.domain.shape)

    def _real(self, x):
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{type(self).__name__} got an element of dtype {x.dtype}; it needs float32 or float64: "
                            + ("project .real and .imag apart." if x.is_complex() else "pass it as .float()."))
        return x

    def _call(self, x):
        return linear_function(self._real(x), self._forward, self._backward)

    def _adjoint(self, y):
        return linear_function(self._real(y), self._backward, self._forward)

    def rows(self, index):
        """The lines of some views (events) alone; their taps are stored where those of the whole would be, and made for themselves."""
        check_rows(self, index)
        part = self.geometry.subset(index)
        bins = None if self.tof_bin is None else self.tof_bin[index]
        return JosephProjector(part, self.domain.shape, self.voxel_size, self.origin, self.tof, bins, "stored" if self.stored else "matrix-free",
                               self.domain.dtype, self.domain.device)

    def __getstate__(self):
        return {**vars(self), "_matrices": {}}

    def __repr__(self):
        kept = f"{self.bytes / 2**20:.0f} MiB of taps stored" if self.stored else f"matrix-free, {self.bytes / 2**30:.1f} GiB if stored"
        return f"{type(self).__name__}({self.domain.shape} -> {self.range.shape}, {kept})"


class RayTransform(JosephProjector):
    """Line integrals over parallel beams, the 2-D Radon transform: (..., y, x) -> (..., views, bins), in mm times the unit of the image. Slices of a volume are a batch.

    Parameters
    ----------
    shape : of the image (y, x).
    angles : (views,) in rad; the lines x cos(angle) + y sin(angle) = s, with y along the rows (downwards).
    bins, bin_width : of the detector, in mm; bin b lies at s = (b - (bins - 1) / 2) bin_width + offset. By default bins as wide as the smallest side of a pixel,
        as many as cover the image's diagonal.
    voxel_size, origin, storage, dtype, device : as for JosephProjector.
    """

    def __init__(self, shape: Shape, angles: Array, bins: int | None = None, bin_width: Positive | None = None, voxel_size: Numbers = 1.0,
                 offset: float = 0.0, origin: Numbers | None = None, storage: Stored = "auto", dtype: InexactDtype = torch.float32, device: Device = "cpu"):
        if len(shape) != 2:
            raise ValueError(f"RayTransform got an image of shape {shape}; it needs (y, x), and slices of a volume are a batch.")
        size = per_axis(voxel_size, 2, "RayTransform", "voxel_size")
        if not (size > 0).all():
            raise ValueError(f"RayTransform got voxel_size={voxel_size}; it needs lengths in mm above 0.")
        width = float(size.min()) if bin_width is None else bin_width
        diagonal = float(torch.linalg.vector_norm(size * torch.tensor(shape, dtype=torch.float64)))
        beam = ParallelBeam(angles, int(np.ceil(diagonal / width)) if bins is None else bins, width, offset)
        super().__init__(beam, shape, voxel_size, origin, storage=storage, dtype=dtype, device=device)


def _csr(row, column, weight, shape, dtype):
    import scipy.sparse

    return scipy.sparse.csr_matrix((weight.numpy().astype(dtype), (row.numpy(), column.numpy())), shape)


class _Pair:
    """A sparse matrix and its transpose, as torch's CSR, on a batch of vectors (batch, n)."""

    def __init__(self, matrix, device):
        self.matrix, self.transpose = (self._tensor(m, device) for m in (matrix, matrix.T.tocsr()))

    @staticmethod
    def _tensor(m, device):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                      # torch calls its CSR layout beta
            return torch.sparse_csr_tensor(*(torch.from_numpy(v) for v in (m.indptr, m.indices, m.data)), m.shape).to(device)

    @staticmethod
    def _product(matrix, x):
        return (matrix @ x[0]).unsqueeze(0) if len(x) == 1 else (matrix @ x.mT).mT

    def forward(self, x):
        return self._product(self.matrix, x)

    def backward(self, y):
        return self._product(self.transpose, y)
