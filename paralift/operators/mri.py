"""`MRI`: image to k-space, Cartesian or along a trajectory, with coils and off-resonance."""

import copy
import math

import torch

from ..arguments import Array, InexactDtype, Numbers, Shape
from .nufft import NUFFT
from .off_resonance import time_segments
from .operator import LinearOperator, check_rows
from .space import Space, all_finite, finite

__all__ = ["MRI"]


class MRI(LinearOperator):
    """y_c = M F (S_c x) for every coil c: an image (..., *shape) to k-space (..., coils, *shape), or (..., coils, *trajectory.shape[:-1]); no coil axis without `coil_maps`.

    Parameters
    ----------
    mask : M, sampling weights >= 0 (0 and 1, or bool, for a mask): of the image's shape, with length 1 on axes where it is constant (lines: (1, nx)); along a trajectory of
        the shape of its samples, for instance `density_compensation(...).sqrt()`.
    coil_maps : S, complex (coils, *shape).
    trajectory : (samples, d) or (shots, readout, d) in rad/pixel within [-pi, pi], or in 1/m with `field_of_view` in m; column i is the image's axis i. F is the `NUFFT`
        then (extra `nufft`), and the centred orthonormal FFT otherwise: the zero frequency at shape // 2, as in fftshift(fftn(ifftshift(x), norm="ortho")).
    shape : of the image, d = 2 or 3 axes; by default the maps' without coils, or the mask's. Further axes in front of the mask's and of the maps' (before the coils) are frames
        or slices with their own: with shape=(ny, nx), mask (frames, ny, nx), maps (coils, ny, nx), the domain is (frames, ny, nx), the range (frames, coils, ny, nx).
    field_map, readout_times : f in Hz, of the domain's shape, and t in s, broadcastable to k-space without coils: F x = sum_j x_j exp(-2 pi i f_j t_k) exp(...),
        by `time_segments` with an error of at most `field_tolerance`.
    tolerance : of the NUFFT. dtype : of the domain; by default the maps', complex64 without maps.

    Any batch axes are in front. `normal` takes no shifts (Cartesian) or is a `ToeplitzOperator` (trajectory). `rows(index)` is some coils, or some shots without coil maps.
    Peak memory beyond input and output: one coil stack for the forward, half a GiB or one coil for the adjoint. Several sets of maps (ESPIRiT):
    `HorizontalStack(MRI(mask, maps_1), MRI(mask, maps_2))`.
    Raises TypeError / ValueError where shapes, ranges or dtypes do not fit, for NaN, and for a negative mask. Sources: Pruessmann et al., Magn. Reson. Med. 42, 1999; 46, 2001.
    """

    def __init__(self, mask: torch.Tensor | None = None, coil_maps: Array | None = None, trajectory: Array | None = None, shape: Shape | None = None,
                 field_of_view: Numbers | None = None, field_map: Array | None = None, readout_times: Array | None = None,
                 tolerance: float | None = None, field_tolerance: float = 1e-4, dtype: InexactDtype | None = None):
        maps = None if coil_maps is None else finite(coil_maps, "MRI", "tensor of coil_maps")
        mask = None if mask is None else _mask(mask)
        shape = self._shape(mask, maps, trajectory, shape)
        d = len(shape)
        if trajectory is None and (field_of_view is not None or tolerance is not None):
            raise ValueError("MRI got field_of_view= or tolerance= without a trajectory; they belong to trajectory=.")
        if maps is not None and (maps.dim() <= d or tuple(maps.shape[-d:]) != shape):
            raise ValueError(f"MRI got coil_maps of shape {tuple(maps.shape)}; the image {shape} needs (coils, *shape): unsqueeze the coil axis where there is one coil.")
        reference = next(t for t in (maps, mask, torch.empty(0) if trajectory is None else torch.as_tensor(trajectory)) if t is not None)
        dtype = dtype or (torch.complex64 if maps is None else maps.dtype.to_complex())
        if not dtype.is_complex:
            raise TypeError(f"MRI got dtype={dtype}; images of MRI are complex: torch.complex64 or torch.complex128.")
        maps, mask = None if maps is None else maps.to(dtype), None if mask is None else mask.to(reference.device, dtype.to_real())
        self.fourier = None if trajectory is None else NUFFT(trajectory, shape, field_of_view, tolerance, dtype)
        samples = shape if self.fourier is None else self.fourier.range.shape
        if mask is not None and (mask.dim() < len(samples) or any(m not in (1, n) for m, n in zip(mask.shape[-len(samples):], samples))):
            raise ValueError(f"MRI got a mask of shape {tuple(mask.shape)}; it needs the trailing axes {samples}, each of that length or 1.")
        lead = torch.broadcast_shapes(() if mask is None else mask.shape[:mask.dim() - len(samples)], () if maps is None else maps.shape[:maps.dim() - d - 1])
        coils, device = () if maps is None else (maps.shape[-d - 1],), reference.device
        super().__init__(Space((*lead, *shape), dtype, device), Space((*lead, *coils, *samples), dtype, device))
        self.coils, self.d, self.sample_axes = maps is not None, d, len(samples)
        self.axes, self.power = tuple(range(-d, 0)), None if mask is None else mask.square().unsqueeze(-len(samples) - 1)
        self._fold(mask, maps, shape, dtype, device)
        self.phases, self.segments = self._off_resonance(field_map, readout_times, field_tolerance, samples, dtype)
        self._gram, self._lead = None, len(lead)

    @staticmethod
    def _shape(mask, maps, trajectory, shape):
        if shape is not None:
            shape = tuple(int(n) for n in shape)
        elif maps is not None:
            d = maps.dim() - 1 if trajectory is None else torch.as_tensor(trajectory).shape[-1]
            shape = tuple(maps.shape[-d:])
        elif mask is not None and trajectory is None:
            shape = tuple(mask.shape)
        else:
            raise ValueError("MRI got nothing that says the image's shape; pass shape=(ny, nx) or coil_maps (a trajectory does not say it).")
        if not 2 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"MRI got the image shape {shape}; it needs two or three axes of at least one pixel: coil_maps are (coils, *shape), and slices and frames are axes "
                             "in front, with shape= given.")
        return shape

    def _fold(self, mask, maps, shape, dtype, device):
        """maps, conj, weights: S and M with the shifts of the centred FFT and its scale multiplied in, the coil axis always there."""
        self.maps = torch.ones((1,) * (self.d + 1), dtype=dtype.to_real(), device=device) if maps is None else maps
        self.weights = None if mask is None else mask.unsqueeze(-self.sample_axes - 1)
        if self.fourier is None:
            ramps = [_ramps(n, dtype, device) for n in shape]
            outer = lambda i: math.prod(pair[i].reshape(-1, *[1] * (self.d - 1 - axis)) for axis, pair in enumerate(ramps))
            self.maps = self.maps * (outer(0) * math.prod(shape) ** -0.5)
            self.weights = outer(1) if self.weights is None else self.weights * outer(1)
        self.maps = self.maps.expand(*self.maps.shape[:-self.d], *shape)
        self.conj = self.maps.conj().resolve_conj() if self.maps.is_complex() else self.maps
        self.conj_weights = self.weights.conj().resolve_conj() if self.weights is not None and self.weights.is_complex() else self.weights

    def _off_resonance(self, field_map, readout_times, tolerance, samples, dtype):
        if field_map is None and readout_times is None:
            return None, None
        if field_map is None or readout_times is None:
            raise ValueError("MRI needs both field_map= (Hz) and readout_times= (s), or neither.")
        f, t = (torch.as_tensor(v, device=self.domain.device) for v in (field_map, readout_times))
        if f.is_complex() or tuple(f.shape) not in (self.domain.shape, self.domain.shape[-self.d:]):
            raise ValueError(f"MRI got a field_map of shape {tuple(f.shape)} and dtype {f.dtype}; it needs real numbers in Hz of the image's shape {self.domain.shape[-self.d:]}.")
        if t.dim() > len(samples) or any(m not in (1, n) for m, n in zip(reversed(t.shape), reversed(samples))):
            raise ValueError(f"MRI got readout_times of shape {tuple(t.shape)}; it needs seconds that broadcast to the samples {samples}.")
        phases, segments = time_segments(f, t, tolerance)
        return phases.to(dtype), segments.reshape(-1, *[1] * (len(samples) - t.dim()), *t.shape).to(dtype)

    # ---- the Fourier transform of coil images, and the sum over coils of what comes back
    def _encode(self, images):
        return torch.fft.fftn(images, dim=self.axes) if self.fourier is None else self.fourier._call(images)

    def _decode(self, y):
        return torch.fft.ifftn(y, dim=self.axes, norm="forward") if self.fourier is None else self.fourier._adjoint(y)

    def _group(self, size):
        """How many coils to take at once: 32 million numbers at the most, and at least one."""
        return max(1, 2**25 // max(size, 1))

    def _combined(self, parts, maps, decode):
        """sum_c conj(S_c) decode(part_c)."""
        total = None
        for part, group in zip(parts, maps):
            for image, conj in zip(decode(part).unbind(-self.d - 1), group.unbind(-self.d - 1)):
                total = image * conj if total is None else torch.addcmul(total, image, conj)
        return total

    def _plain_call(self, x):
        return self._encode(x.unsqueeze(-self.d - 1) * self.maps)

    def _plain_adjoint(self, y):
        n = self._group(y.numel() // y.shape[-self.sample_axes - 1])
        return self._combined(y.split(n, -self.sample_axes - 1), self.conj.split(n, -self.d - 1), self._decode)

    def _call(self, x):
        if self.phases is None:
            y = self._plain_call(x)
        else:
            y = sum(weight * self._plain_call(phase * x) for phase, weight in zip(self.phases, self.segments))
        y = y if self.weights is None else y.mul_(self.weights)
        return y if self.coils else y.squeeze(-self.sample_axes - 1)

    def _adjoint(self, y):
        y = y if self.coils else y.unsqueeze(-self.sample_axes - 1)
        y = y if self.weights is None else self.conj_weights * y
        if self.phases is None:
            return self._plain_adjoint(y)
        return sum(phase.conj() * self._plain_adjoint(weight.conj() * y) for phase, weight in zip(self.phases, self.segments))

    # ---- the normal operator
    @property
    def fast_normal(self):
        return self.fourier is not None and self.phases is None and (self.power is None or self.power.dim() == self.sample_axes + 1)

    def _filter(self, images):
        if self.fourier is not None:
            if self._gram is None:
                self._gram = self.fourier.gram(None if self.power is None else self.power[0].expand(self.fourier.range.shape))
            return self._gram._call(images)
        return torch.fft.ifftn(torch.fft.fftn(images, dim=self.axes).mul_(self.power), dim=self.axes, norm="forward")

    def _normal(self, x):
        if self.phases is not None or self.fourier is not None and not self.fast_normal:
            return super()._normal(x)
        if self.fourier is None and self.power is None:
            return x * self._energy()
        n = self._group(x.numel())
        return self._combined(self.maps.split(n, -self.d - 1), self.conj.split(n, -self.d - 1), lambda maps: self._filter(x.unsqueeze(-self.d - 1) * maps))

    def _resolvent(self, x, s):
        """Pixel by pixel where the grid is fully sampled, in k-space without coils."""
        if self.fourier is not None or self.phases is not None or self.coils and self.power is not None:
            return None
        if self.power is None:
            return x / (1 + s * self._energy())
        s = s.unsqueeze(-self.d - 1) if torch.is_tensor(s) and s.dim() else s
        y = torch.fft.fftn(x.unsqueeze(-self.d - 1) * self.maps, dim=self.axes).div_(1 + s * self.power)
        return (torch.fft.ifftn(y, dim=self.axes, norm="forward") * self.conj).squeeze(-self.d - 1)

    def _energy(self):
        """sum_c |S_c|^2."""
        return self.maps.abs().square().sum(-self.d - 1) * (math.prod(self.domain.shape[-self.d:]) if self.fourier is None else 1)

    def norm(self, iterations=100, tolerance=1e-6, seed=0):
        """Exact for fully sampled grids, max |S|, and without coils, max M; otherwise `LinearOperator.norm`."""
        if self.fourier is None and self.phases is None and (self.power is None or not self.coils):
            return math.sqrt(float(self._energy().max() if self.power is None else self.power.max()))
        return super().norm(iterations, tolerance, seed)

    def rows(self, index):
        if self._lead or not (self.coils or self.fourier is not None):
            return super().rows(index)
        check_rows(self, index)
        new = copy.copy(self)
        if self.coils:
            new.maps, new.conj = self.maps[index], self.conj[index]
        else:
            samples, new._gram = self.range.shape, None
            new.fourier = self.fourier.rows(index)
            cut = lambda w: w if w is None else w.expand(len(w), *samples)[:, index]
            new.power, new.weights, new.conj_weights, new.segments = (cut(w) for w in (self.power, self.weights, self.conj_weights, self.segments))
        first = len(new.maps) if self.coils else new.fourier.range.shape[0]
        new.range = Space((first, *self.range.shape[1:]), self.range.dtype, self.range.device)
        return new


def _mask(mask):
    mask = torch.as_tensor(mask)
    if mask.is_complex():
        raise TypeError(f"MRI got a mask of dtype {mask.dtype}; it needs real weights: 0 and 1, bool, or numbers >= 0.")
    mask = mask if mask.is_floating_point() else mask.float()
    if not all_finite(mask) or bool((mask < 0).any()):
        raise ValueError(f"MRI got a mask with a smallest entry of {float(mask.min()):.4g}; it needs finite weights >= 0.")
    return mask


def _ramps(n, dtype, device):
    """(a, b) with centred DFT = b . DFT(a .), c = n // 2: a(j) = exp(2 pi i c j/n), b(k) = exp(2 pi i c (k - c)/n); signs where n is even."""
    c, j = n // 2, torch.arange(n, device=device)
    if n % 2 == 0:
        sign = lambda k: (1 - 2 * (k % 2)).to(dtype.to_real())
        return sign(j), sign(j - c)
    turn = lambda k: torch.polar(torch.ones(n, dtype=torch.float64, device=device), (c * k % n).double() * (2 * math.pi / n)).to(dtype)
    return turn(j), turn(j - c)
