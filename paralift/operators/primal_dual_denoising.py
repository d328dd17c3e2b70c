"""The iteration behind the prox of total variation and its relatives, on flat real planes."""

import math

import torch

__all__ = []

FLOOR, CHECK = 0.02, 10            # the smallest primal step; iterations from one gap to the next


class Planes:
    """An element as real planes (c, samples * pixels): real and imaginary parts and channels are the c planes, `shape` is (*batch, *element without channels)."""

    def __init__(self, x, ndim, channel=None):
        self.like, self.channel = x, channel
        real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.unsqueeze(-1)
        real = real.float() if real.dtype in (torch.bfloat16, torch.float16) else real
        real = real.movedim(-1, 0).unsqueeze(1) if channel is None else real.movedim((-1, channel - 1), (0, 1))
        self.full, self.shape = real.shape, tuple(real.shape[2:])
        self.samples = math.prod(x.shape[:x.dim() - ndim])
        self.flat = real.reshape(real.shape[0] * real.shape[1], -1)

    def each(self, v):
        """(..., samples * pixels) -> (..., samples, pixels)."""
        return v.unflatten(-1, (self.samples, -1))

    def element(self, flat):
        real = flat.reshape(self.full)
        real = real.squeeze(1).movedim(0, -1) if self.channel is None else real.movedim((0, 1), (-1, self.channel - 1))
        return (torch.view_as_complex(real.contiguous()) if self.like.is_complex() else real.squeeze(-1)).to(self.like.dtype)


class Differences:
    """g_i = weight_i (x shifted along axis i - x), made orthogonal to `direction` (d, pixels) where there is one, and its adjoint, without temporaries.

    The planes are flat: a shift is an offset, and what it takes from across an edge meets the zeros that g and p hold at the end of every axis.
    """

    def __init__(self, planes, axes, weights, direction=None):
        self.shape, self.axes, self.weights = planes.shape, axes, weights
        self.offsets = [math.prod(planes.shape[len(planes.shape) + a + 1:]) for a in axes]
        self.direction = None if direction is None else direction.repeat(1, planes.samples).unsqueeze(1)
        self.square = sum((2 * w * math.sin(math.pi * (n - 1) / (2 * n))) ** 2 for w, n in zip(weights, (planes.shape[a] for a in axes)))
        self.scratch = planes.flat.new_empty(len(axes), *planes.flat.shape)

    def add(self, out, x, step):
        """out += step D x."""
        g = out if self.direction is None else self.scratch.zero_()
        for i, (w, o) in enumerate(zip(self.weights, self.offsets)):
            w = w * step if g is out else w
            part = g[i, :, :-o]
            part.add_(x[:, o:], alpha=w).sub_(x[:, :-o], alpha=w)
            g[i].view(-1, *self.shape).select(self.axes[i], -1).zero_()
        return out if g is out else out.add_(self._orthogonal(g), alpha=step)

    def _orthogonal(self, g):
        along = (self.direction * g).sum(0)
        return torch.addcmul(g, self.direction, along, value=-1, out=self.scratch)

    def residual(self, x, p, out):
        """out = x - D* p."""
        if self.direction is not None:
            p = self._orthogonal(p)
        start = x
        for i, (w, o) in enumerate(zip(self.weights, self.offsets)):
            torch.add(start, p[i], alpha=w, out=out)
            out[:, o:].sub_(p[i, :, :-o], alpha=w)
            start = out
        return out


def _squares(g, isotropic):
    """|g|^2 of every pixel: (1, pixels), or (d, pixels) where each direction counts by itself."""
    rows = [list(g.flatten(0, 1))] if isotropic else [list(planes) for planes in g]
    out = g.new_empty(len(rows), g.shape[-1])
    for row, planes in zip(out, rows):
        torch.mul(planes[0], planes[0], out=row)
        for v in planes[1:]:
            row.addcmul_(v, v)
    return out


def denoise(planes, target, D, isotropic, delta, level, max_iterations):
    """argmin_w |w - target|^2/2 + sum h(|D w|) on flat planes, h(t) = t or Huber's with `delta` (one for each sample), and p, until every sample's gap is at most its `level`."""
    p, w, v, ahead = target.new_zeros(len(D.axes), *target.shape), target.clone(), torch.empty_like(target), target.clone()
    floor = FLOOR if delta is None else max(FLOOR, (float(delta.min()) / max(D.square, 1e-12)) ** 0.5)
    t = 3.0
    for k in range(1, max_iterations + 1):
        s = 1 / (t * max(D.square, 1e-12))
        D.add(p, ahead, s)
        if delta is not None:
            planes.each(p).div_(1 + s * delta)
        if isotropic or len(p[0]) > 1:
            p.mul_(_squares(p, isotropic).clamp_(min=1).rsqrt_().unsqueeze(1))
        else:
            p.clamp_(-1, 1)
        D.residual(target, p, v)
        new = torch.lerp(w, v, t / (1 + t))
        if k % CHECK == 0 and (_gaps(planes, D, new, v, p, isotropic, delta) <= level).all():
            return new
        theta = (1 + 2 * t) ** -0.5 if t > floor else 1.0
        torch.lerp(w, new, 1 + theta, out=ahead)
        w, t = new, t * theta
    return w


def _gaps(planes, D, w, v, p, isotropic, delta):
    """Primal minus dual of every sample, v = target - D* p: sum (h(|D w|) + h*(p) - <D w, p>) + |w - v|^2 / 2, of nonnegative terms."""
    g = D.add(torch.zeros_like(p), w, 1.0)
    sizes = planes.each(_squares(g, isotropic).sqrt_())
    if delta is None:
        terms = sizes.sum(0)
    else:
        terms = torch.where(sizes <= delta, sizes.square() / (2 * delta), sizes - delta / 2).sum(0) + 0.5 * delta * planes.each(p).square().sum((0, 1))
    terms = terms - planes.each(g.mul_(p)).sum((0, 1)) + 0.5 * planes.each(w - v).square_().sum(0)
    return terms.sum(-1)
