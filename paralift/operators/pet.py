"""`PET`: emission tomography, from an activity image to expected counts; sinograms and list mode."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from ..arguments import Array, Device, InexactDtype, Numbers, checked
from .gaussian_blur import GaussianBlur
from .geometry import Geometry, Rays
from .list_mode import Events
from .operator import LinearOperator, check_rows
from .ray_transform import JosephProjector, Stored
from .space import Space, finite
from .time_of_flight import TimeOfFlight

__all__ = ["PET"]


class PET(LinearOperator):
    """x -> N exp(-A mu) T(A G x): A line integrals, G the resolution, T the time-of-flight bins, mu the attenuation, N the sensitivity; (..., *shape) -> (..., *sinogram).

    Parameters
    ----------
    geometry : CylindricalScanner, ParallelBeam, or Rays.
    shape, voxel_size, origin, storage, dtype, device : of the image (y, x) or (z, y, x) in mm, and as for JosephProjector.
    attenuation : mu (1/mm) in the image's shape, or the factors exp(-A mu) in (0, 1] in the sinogram's. `hounsfield_to_attenuation` makes mu from CT numbers.
    sensitivity : N >= 0 in the sinogram's shape: efficiency times counts per mm of activity; None: 1. Lines in gaps and planes of several pairs of rings are known to the geometry.
    background : expected randoms and scatter, counts >= 0, in the shape of the range; kept as `op.background`, for the data term
        `KullbackLeibler(counts, background=op.background) @ op`.
    tof : TimeOfFlight; the range then ends with the axis of time bins.
    resolution : FWHM in mm of the Gaussian G, a number or one an axis.

    `rows(index)` are some views, with their part of the background. The sensitivity image of MLEM is `op.adjoint(op.range.zero() + 1)`. Raises ValueError for a wrong
    shape, NaN, a negative number, or an attenuation above 0.08 / mm (more than steel's: perhaps it was in 1/cm).
    """

    events = False                 # one line per event: the likelihood then needs the sensitivity image of the whole scan

    def __init__(self, geometry: Geometry, shape: Sequence[int], voxel_size: Numbers = 1.0, attenuation: Array | None = None,
                 sensitivity: Array | None = None, background: Array | None = None, tof: TimeOfFlight | None = None,
                 resolution: Numbers | None = None, origin: Numbers | None = None, storage: Stored = "auto", dtype: InexactDtype = torch.float32,
                 device: Device = "cpu"):
        project = JosephProjector(geometry, shape, voxel_size, origin, tof, storage=storage, dtype=dtype, device=device)
        super().__init__(project.domain, project.range)
        self.projector, self.tof = project, tof
        self.blur = None if resolution is None else GaussianBlur(self.domain, resolution, project.voxel_size)
        lines = Space(geometry.shape, dtype, device)
        factors = [v for v in (geometry.live, geometry.multiplicity) if v is not None]
        if sensitivity is not None:
            factors.append(_checked(sensitivity, "sensitivity", lines))
        if attenuation is not None:
            factors.append(self._attenuation(attenuation, lines))
        self.factors: Any = None
        if factors:
            self.factors = torch.ones((), dtype=dtype, device=device)
            for value in factors:
                self.factors = self.factors * value.to(self.factors)
            self.factors = self.factors.expand(lines.shape)
        self.background = None if background is None else _checked(background, "background", self.range)

    def _attenuation(self, value, lines):
        value = torch.as_tensor(value)
        image, sinogram = tuple(value.shape) == self.domain.shape, tuple(value.shape) == lines.shape
        if image == sinogram:
            raise ValueError(f"PET got an attenuation of shape {tuple(value.shape)}; it needs the image's {self.domain.shape} (mu in 1/mm) or the sinogram's {lines.shape} "
                             "(factors exp(-A mu))" + ("; where the two agree, multiply the factors into the sensitivity." if image else "."))
        value = _checked(value, "attenuation", self.domain if image else lines)
        if sinogram:
            if not (value > 0).all() or float(value.max()) > 1:
                raise ValueError("PET got attenuation factors outside (0, 1]; they are exp(-A mu), the part of the photon pairs that leaves the body.")
            return value
        if float(value.max()) > 0.08:
            raise ValueError(f"PET got an attenuation of up to {float(value.max()):.3g} / mm, more than steel has (water: 0.0096); it needs 1/mm: divide one in 1/cm by 10.")
        p = self.projector
        whole = p if p.tof is None else JosephProjector(p.geometry, p.domain.shape, p.voxel_size, p.origin, storage="matrix-free", dtype=p.domain.dtype)
        return torch.exp(-whole._call(value))

    def _call(self, x):
        y = self.projector._call(x if self.blur is None else self.blur._call(x))
        return y if self.factors is None else self._weigh(y)

    def _adjoint(self, y):
        x = self.projector._adjoint(y if self.factors is None else self._weigh(y))
        return x if self.blur is None else self.blur._call(x)

    def _weigh(self, y):
        factors = self.factors.to(y)
        return y * (factors if self.projector.range.ndim == factors.dim() else factors.unsqueeze(-1))

    def _part(self, projector, pick):
        new = copy.copy(self)
        new.projector, new.range = projector, projector.range
        new.factors = None if self.factors is None else self.factors[pick]
        new.background = None if self.background is None else self.background[pick]
        return new

    def rows(self, index):
        """The views `index` (a tensor or a slice) alone."""
        check_rows(self, index)
        return self._part(self.projector.rows(index), index)

    @checked
    def list_mode(self, events: Events) -> "PET":
        """The same scan with one line per event: (..., *shape) -> (..., events), the expected counts per bin at the bins of these `Events`, and their `background`.

        List-mode MLEM, with A = op.list_mode(events) and s = op.adjoint(ones): x <- x / s * A.adjoint(1 / (A(x) + A.background)). With one line per count it is the iteration on
        sinograms, at the cost of the events alone (a Reconstruction refuses it, as it would take the events' own A.adjoint(1) for s).
        Raises ValueError for events outside the sinograms, or on lines that count nothing.
        """
        if self.events:
            raise ValueError("list_mode got an operator that has one line per event already; take the whole scan's.")
        index, p = events.index(self.projector.geometry), self.projector
        if (self.tof is None) != (events.tof is None):
            has = lambda tof: "without" if tof is None else "with"
            raise ValueError(f"list_mode got events {has(events.tof)} time bins for an operator {has(self.tof)} them; both need them, or neither.")
        start, end = p.geometry.ends(*index)
        rays = JosephProjector(Rays(start, end), p.domain.shape, p.voxel_size, p.origin, p.tof, events.tof, p.storage, p.domain.dtype, p.domain.device)
        new = self._part(rays, index)
        new.events = True
        if self.background is not None and self.tof is not None:
            new.background = self.background[(*index, events.tof)]
        dead = 0 if new.factors is None else int(((new.factors == 0) & (True if new.background is None else new.background == 0)).sum())
        if dead:
            raise ValueError(f"list_mode got {dead} events on lines of sensitivity 0 without background; keep those that can be: "
                             "events[op.factors[events.index(op.projector.geometry)] > 0].")
        return new

    def __repr__(self):
        parts = [name for name in ("tof", "blur", "factors", "background") if getattr(self, name) is not None]
        return f"PET({self.projector!r}{', with ' if parts else ''}{', '.join(parts)})"


def _checked(value, what, space):
    value = finite(value, "PET", what).to(space.dtype).to(space.device)
    if tuple(value.shape) != space.shape:
        raise ValueError(f"PET got a {what} of shape {tuple(value.shape)}; it needs {space.shape}.")
    if (value < 0).any():
        raise ValueError(f"PET got a {what} below 0 (down to {float(value.min()):.3g}); it needs numbers >= 0.")
    return value
