"""`NUFFT`: the Fourier transform at points off the grid, with its normal operator as a convolution; density compensation."""

import math
from itertools import product

import numpy as np
import torch

from ..arguments import Array, Count, InexactDtype, Integers, Numbers, checked
from .linear_function import linear_function
from .operator import LinearOperator, check_rows
from .space import Space, finite, per_axis

__all__ = ["NUFFT", "ToeplitzOperator", "density_compensation"]


def _finufft():
    try:
        import finufft
    except ImportError:
        raise ImportError("Trajectories off the grid need the package finufft; install it with: pip install paralift[nufft]") from None
    return finufft


def _angles(trajectory, shape, field_of_view, who):
    """The trajectory in rad/pixel, float64, checked."""
    trajectory = finite(torch.as_tensor(trajectory), who, "trajectory").detach()
    d = len(shape)
    if trajectory.is_complex() or trajectory.dim() < 2 or trajectory.shape[-1] != d or not trajectory.numel():
        raise ValueError(f"{who} got a trajectory of shape {tuple(trajectory.shape)} and dtype {trajectory.dtype} for the image {shape}; it needs real numbers of shape "
                         f"(samples, {d}) or (shots, readout, {d}), column i for the image's axis i.")
    trajectory, unit = trajectory.double(), "rad/pixel"
    if field_of_view is not None:
        extent = per_axis(field_of_view, d, who, "field_of_view")
        if not bool((extent > 0).all()):
            raise ValueError(f"{who} got field_of_view={field_of_view}; it needs a positive length in m, or one for each axis.")
        trajectory, unit = trajectory * (2 * math.pi * extent / torch.tensor(shape)).to(trajectory.device), "rad/pixel (2 pi k field_of_view / pixels)"
    largest = float(trajectory.abs().max())
    if largest > math.pi * (1 + 1e-6):
        raise ValueError(f"{who} got a trajectory that reaches {largest:.5g} {unit}; the image's band ends at pi. Scale it to rad/pixel, or pass it in 1/m with "
                         "field_of_view= in m.")
    return trajectory


class NUFFT(LinearOperator):
    """y_k = N^(-1/2) sum_j x_j exp(-i <omega_k, j - c>), c = shape // 2, N = the number of pixels: (..., *shape) -> (..., *trajectory.shape[:-1]), in 1 to 3 dimensions.

    Parameters
    ----------
    trajectory : omega (samples, d) or (shots, readout, d), in rad/pixel within [-pi, pi]; column i belongs to the image's axis i. With `field_of_view` (m, one number or one
        an axis) it is in 1/m.
    shape : of the image, d axes.
    tolerance : relative error of the sums; by default 1e-6 in single and 1e-12 in double precision.
    dtype : of `domain`; an input of another precision is transformed in its own.

    On all points of the grid, omega = 2 pi (k - c)/n, it is the centred orthonormal FFT. In single precision the points are rounded too, which costs some 1e-7 n relatively.
    finufft computes it on the CPU (elements of another device are copied there and back); its plans are kept. Raises ValueError for a trajectory outside
    [-pi, pi], with NaN, or of other dimensions than the image; ImportError without finufft (the extra `nufft`).
    Source: Barnett, Magland & af Klinteberg, SIAM J. Sci. Comput. 41(5), 2019.
    """

    fast_normal = True

    def __init__(self, trajectory: Array, shape: Integers, field_of_view: Numbers | None = None, tolerance: float | None = None,
                 dtype: InexactDtype = torch.complex64):
        shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        if not 1 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"NUFFT got the image shape {shape}; it needs one to three axes of at least one pixel.")
        if not dtype.is_complex:
            raise TypeError(f"NUFFT got dtype={dtype}; its images are complex: torch.complex64 or torch.complex128.")
        if tolerance is not None and not 0 < tolerance < 1:
            raise ValueError(f"NUFFT got tolerance={tolerance}; it needs a number between 0 and 1.")
        _finufft()
        omega = _angles(trajectory, shape, field_of_view, "NUFFT")
        super().__init__(Space(shape, dtype, omega.device), Space(tuple(omega.shape[:-1]), dtype, omega.device))
        self.omega, self.tolerance, self._plans, self._grams = omega, tolerance, {}, {}

    def _points(self, dtype):
        """omega by axes (d, samples), rounded to the real `dtype`, on the CPU."""
        return self.omega.flatten(0, -2).T.to("cpu", dtype).contiguous()

    def _plan(self, kind, dtype, many):
        key = (kind, dtype, many, torch.get_num_threads())
        if key not in self._plans:
            while len(self._plans) >= 8:                                   # the oldest one goes
                del self._plans[next(iter(self._plans))]
            tolerance = self.tolerance or (1e-6 if dtype == torch.complex64 else 1e-12)
            # the small fine grid cannot reach tight tolerances
            plan = _finufft().Plan(kind, self.domain.shape, n_trans=many, eps=tolerance, isign=1 if kind == 1 else -1, dtype=str(dtype).removeprefix("torch."),
                                   nthreads=key[-1], upsampfac=2.0 if tolerance < 1e-5 else 0.0)
            plan.setpts(*self._points(dtype.to_real()).numpy())
            self._plans[key] = plan
        return self._plans[key]

    def _run(self, kind, x, source, target):
        batch = x.shape[:x.dim() - source.ndim]
        many = batch.numel()
        out = torch.empty(*batch, *target.shape, dtype=x.dtype)
        if many:
            flat = lambda t, space: (t.view(many, *space) if many > 1 else t.view(space)).numpy()
            values = x.detach().resolve_conj().resolve_neg().cpu().contiguous()
            grid, samples = self.domain.shape, (self.omega.shape[:-1].numel(),)
            self._plan(kind, x.dtype, many).execute(flat(values, samples if kind == 1 else grid), out=flat(out, grid if kind == 1 else samples))
        return out.mul_(self.domain.size ** -0.5).to(x.device)

    def _forward(self, x):
        return self._run(2, x, self.domain, self.range)

    def _backward(self, y):
        return self._run(1, y, self.range, self.domain)

    def _call(self, x):
        return linear_function(_complex(x), self._forward, self._backward)

    def _adjoint(self, y):
        return linear_function(_complex(y), self._backward, self._forward)

    def _normal(self, x):
        return self.gram()._call(x)

    def gram(self, weights: torch.Tensor | None = None) -> "ToeplitzOperator":
        """x -> A* W A x as a `ToeplitzOperator`, W = diag(weights), real and of the trajectory's shape (ones by default); it is kept where no weights are given."""
        if weights is not None:
            return ToeplitzOperator(self, weights)
        if None not in self._grams:
            self._grams[None] = ToeplitzOperator(self)
        return self._grams[None]

    def rows(self, index):
        check_rows(self, index)
        new = NUFFT.__new__(NUFFT)
        new.__dict__.update(vars(self), omega=self.omega[index], _plans={}, _grams={})
        new.range = Space(tuple(new.omega.shape[:-1]), self.range.dtype, self.range.device)
        return new

    def __getstate__(self):
        return {**vars(self), "_plans": {}, "_grams": {}}


def _complex(x):
    return x if x.is_complex() else x.to(x.dtype.to_complex())


class ToeplitzOperator(LinearOperator):
    """x -> A* W A x for a NUFFT A: a convolution with p(m) = sum_k w_k exp(i <omega_k, m>)/N, |m_i| < n_i, by FFTs of the image's own size.

    On the grid of twice the length the frequencies with parity s (in {0, 1}^d) are the FFT of r_s x, r_s(j) = exp(-i pi <s, j/n>), so that with P the (real) transform of p
        A* W A x = 2^-d sum_s conj(r_s) IFFT(P_s FFT(r_s x)),
    2^(d+1) FFTs without padding. Exact to the rounding of the precision (p is summed to 1e-12), at the points rounded to it.
    Source: Fessler et al., IEEE Trans. Signal Process. 53(9), 2005.
    """

    def __init__(self, nufft: NUFFT, weights: torch.Tensor | None = None):
        super().__init__(nufft.domain, nufft.domain)
        samples = nufft.range
        if weights is not None and (weights.is_complex() or tuple(weights.shape) != samples.shape):
            raise ValueError(f"gram got weights of shape {tuple(weights.shape)} and dtype {weights.dtype}; it needs real ones of the trajectory's shape {samples.shape}.")
        self.nufft, self.weights, self._parts = nufft, weights, {}
        self.axes = tuple(range(-self.domain.ndim, 0))

    def _transfer(self, dtype, device):
        """{s: P_s 2^-d}, of the real `dtype`."""
        if (dtype, device) not in self._parts:
            shape, d = self.domain.shape, self.domain.ndim
            w = np.ones(self.nufft.range.size, complex) if self.weights is None else self.weights.detach().cpu().double().flatten().numpy() + 0j
            transform = getattr(_finufft(), f"nufft{d}d1")
            p = torch.from_numpy(transform(*self.nufft._points(dtype).double().numpy(), w, tuple(2 * n for n in shape), isign=1, eps=1e-12, modeord=1, upsampfac=2.0,
                                           nthreads=torch.get_num_threads()))
            for axis, n in enumerate(shape):                               # the lag n, which no pair of pixels has
                p.select(axis, n).zero_()
            P = torch.fft.fftn(p).real / (self.domain.size * 2**d)
            self._parts[dtype, device] = {s: P[tuple(slice(i, None, 2) for i in s)].to(device, dtype).contiguous() for s in product((0, 1), repeat=d)}
        return self._parts[dtype, device]

    def _ramp(self, s, like):
        """r_s, by its factors."""
        ramp = None
        for axis, (odd, n) in enumerate(zip(s, self.domain.shape)):
            if odd:
                angle = torch.arange(n, dtype=torch.float64, device=like.device) * (-math.pi / n)
                factor = torch.polar(torch.ones_like(angle), angle).to(like.dtype).reshape(-1, *[1] * (self.domain.ndim - 1 - axis))
                ramp = factor if ramp is None else ramp * factor
        return ramp

    def _call(self, x):
        x, out = _complex(x), None
        for s, P in self._transfer(x.dtype.to_real(), x.device).items():
            ramp = self._ramp(s, x)
            v = torch.fft.ifftn(torch.fft.fftn(x if ramp is None else ramp * x, dim=self.axes).mul_(P), dim=self.axes)
            out = v if out is None else torch.addcmul(out, v, ramp.conj().resolve_conj())
        return out

    def _adjoint(self, y):
        return self._call(y)

    def __getstate__(self):
        return {**vars(self), "_parts": {}}


@checked
def density_compensation(trajectory: Array, shape: Integers, iterations: Count = 30, field_of_view: Numbers | None = None) -> torch.Tensor:
    """Weights w >= 0 of the trajectory's shape for which A* diag(w) A is closest to the identity, A = NUFFT(trajectory, shape): `A.adjoint(w * y)` is the gridded image.

    |A* diag(w) A - I|_F^2 = N sum_m t(m) |p(m) - delta(m)|^2 with t the product of the triangles 1 - |m_i|/n_i and p as in `ToeplitzOperator`. Its normal matrix
    G_kl = Re sum_m t(m) exp(i <omega_k - omega_l, m>)/N is nonnegative (products of squared Dirichlet kernels), so w <- w / (G w) lowers it in every
    iteration. On all points of the grid w = 1. Weighted least squares take `MRI(..., mask=w.sqrt())` and the data w.sqrt() * y.
    Sources: Pipe & Menon, Magn. Reson. Med. 41, 1999; kernel: Johnson & Pipe, Magn. Reson. Med. 61, 2009; descent: Lee & Seung, NeurIPS 2000.
    """
    A = NUFFT(trajectory, shape, field_of_view)
    shape, d = A.domain.shape, A.domain.ndim
    wide = NUFFT(A.omega, [2 * n for n in shape], tolerance=1e-6)
    window = torch.full((1,) * d, 2.0**d, dtype=torch.float64, device=A.omega.device)           # N of the wide grid over N
    for axis, n in enumerate(shape):
        triangle = 1 - torch.arange(-n, n, dtype=torch.float64, device=A.omega.device).abs() / n
        window = window * triangle.reshape(-1, *[1] * (d - 1 - axis))
    w = torch.ones(A.range.shape, dtype=torch.float64, device=A.omega.device)
    for _ in range(iterations):
        w = w / wide._call(window * wide._adjoint(w)).real
    return w
