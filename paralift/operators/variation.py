"""What total variation and its relatives share: a sum over pixels of |D x|, D a gradient, split as f @ D, with a prox certified by its duality gap."""


import torch

from ..arguments import Count, Integers, Numbers
from .functional import Functional
from .linear import Gradient, grid
from .norms import GroupL1Norm
from .primal_dual_denoising import Differences, Planes, denoise
from .space import Space, SpaceLike

__all__ = []


class _Variation(Functional):
    """sum over pixels of h(|D x|), h(t) = t or Huber's; the parameters and the prox are explained in TotalVariation.

    prox: in units of sigma (w = u / sigma, p the dual) min_w |w - x/sigma|^2/2 + sum h(|D w|) by
    p+ = P(p + s D v), w+ = (w + t (x/sigma - D* p+)) / (1 + t), v = w+ + q (w+ - w), P the projection of every pixel's p onto the unit ball, s t |D|^2 = 1,
    accelerated from t = 3 on, q = 1/sqrt(1 + 2 t), t <- q t, s <- s/q, so that errors fall as 1/k^2, and with steps that stay once t is 0.02, which converges linearly in the end.
    The gap is sum (h(|D w|) + h*(p) - <D w, p>) + |w - x/sigma + D* p|^2/2, without cancellation.
    """

    delta: float | None = None                   # Huber's

    def __init__(self, space: SpaceLike | None = None, isotropic: bool = True, channel_axis: int | None = None, axes: Integers | None = None,
                 spacing: Numbers = 1.0, tolerance: float = 1e-6, max_iterations: Count = 2000):
        if not tolerance >= 0:
            raise ValueError(f"{type(self).__name__} got tolerance={tolerance}; it needs a number >= 0.")
        self.isotropic, self.channel_axis, self.axes, self.spacing = isotropic, channel_axis, axes, spacing
        self.tolerance, self.max_iterations = tolerance, max_iterations
        if space is None:
            self.ndim = self._dimensions()
        super().__init__(space)
        self._grid()

    def _bind(self, space):
        super()._bind(space)
        self._grid()

    def _dimensions(self):
        """How many axes an element has that no space describes."""
        return 2 if self.channel_axis is None else 3

    def _grid(self):
        """(channel axis or None, differentiated axes, spacing), axes counted from the end."""
        name, n, channel = type(self).__name__, self.ndim, self.channel_axis
        if channel is not None and not (isinstance(channel, int) and -n <= channel < n):
            raise ValueError(f"{name} got channel_axis={channel!r} for elements with {n} axes; it needs a number of {-n} to {n - 1}, or None.")
        channel = None if channel is None else channel % n - n
        axes, spacing = grid(n, [a for a in range(-n, 0) if a != channel] if self.axes is None else self.axes, self.spacing, name)
        if channel in axes or not axes:
            raise ValueError(f"{name} got axes={self.axes} and channel_axis={self.channel_axis}; it differentiates along at least one axis, and not along the channels.")
        return channel, axes, spacing

    def _groups(self):
        """The axes of D x that a pixel's norm runs over: the directions, where isotropic, and the channels."""
        channel = self._grid()[0]
        return tuple(([0] if self.isotropic else []) + ([] if channel is None else [channel]))

    def _norm(self):
        return GroupL1Norm(self._groups())

    def _operator(self, space):
        return Gradient(space, *self._grid()[1:])

    def _direction(self, x):
        """The field (d, pixels) that gradients are made orthogonal to; None for most."""
        return None

    def split(self, space):
        space = space if isinstance(space, Space) else Space(space)
        f = self.on(space)
        return [f._norm() @ f._operator(space)]

    def _gradients_of(self, x):
        """D on the space of x."""
        return self._operator(Space(tuple(x.shape[-self.ndim:]), x.dtype, x.device))

    def _value(self, x):
        D = self._gradients_of(x)
        return self._norm().on(D.range)._value(D._call(x))

    def _steps(self, x, sigma):
        """sigma as one number for each sample, of the batch's shape or ()."""
        if x.requires_grad and torch.is_grad_enabled():
            raise TypeError(f"{type(self).__name__}'s prox is an iteration without a derivative; call it under torch.no_grad(), or unroll PDHG on its split(space).")
        sigma = torch.as_tensor(sigma, dtype=x.real.dtype, device=x.device)
        if any(n != 1 for n in sigma.shape[-self.ndim:]):
            raise ValueError(f"{type(self).__name__} got a prox step of shape {tuple(sigma.shape)}; it needs one for each sample: (..., {', '.join('1' * self.ndim)}).")
        return sigma.reshape(sigma.shape[:max(sigma.dim() - self.ndim, 0)])

    def _prox(self, x, sigma):
        sigma = self._steps(x, sigma)
        channel, axes, spacing = self._grid()
        planes, scale = Planes(x, self.ndim, channel), 1 / min(spacing)
        each = sigma.expand(x.shape[:x.dim() - self.ndim]).reshape(-1, 1)
        unit = torch.where(each > 0, each * scale, 1.0)
        target = (planes.each(planes.flat) / unit).reshape(planes.flat.shape)
        level = self.tolerance * 0.5 * planes.each(target.square()).sum((0, -1))
        level = torch.where(each[:, 0] > 0, level, torch.inf)
        delta = None if self.delta is None else self.delta / (unit * scale)
        D = Differences(planes, [a + (channel is not None and a < channel) for a in axes], [1 / (h * scale) for h in spacing], self._direction(x))
        w = denoise(planes, target, D, self.isotropic, delta, level, self.max_iterations)
        u = planes.element((planes.each(w) * unit).reshape(planes.flat.shape))
        return u if (each > 0).all() else torch.where(sigma.reshape(*sigma.shape, *(1,) * self.ndim) > 0, u, x)
