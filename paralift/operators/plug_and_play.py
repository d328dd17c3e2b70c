"""`PlugAndPlay`: a denoiser in the place of a prox."""

from collections.abc import Callable
from typing import Literal

import torch

from ..arguments import shown
from .functional import Functional
from .space import SpaceLike

__all__ = ["PlugAndPlay"]


class PlugAndPlay(Functional):
    """A prior known by its denoiser alone: prox(x, sigma) = denoiser(x), for example a `ProximalNetwork` trained by lifting.

    Parameters
    ----------
    denoiser : a torch module in evaluation mode, or any callable, on real images (n, channels, h, w) or (n, channels, d, h, w), to the same shape.
    space : (h, w), the default, or (d, h, w).
    takes_level : the denoiser is called as denoiser(x, s) with the noise level s = sqrt(sigma), (n, 1, 1, 1); otherwise sigma, and with it a weight, has no effect.
    complex_as : "images": real and imaginary part are two images of one channel; "channels": they are the two channels of one image.
    convex : whether the denoiser is known to be the prox of a convex functional, which PDHG and ADMM ask for. A network whose layers are is not one by that alone.

    Its value is not known and counts as 0 (`has_value` is False): a solver's objective is then that of the other terms; stop on the residual or on the change.
    Derivatives pass where x requires them; otherwise the denoiser runs without a graph. Raises ValueError for a module in training mode and for an output of another shape.
    Source: Venkatakrishnan, Bouman & Wohlberg, IEEE GlobalSIP 2013.
    """

    ndim = 2
    has_value = False

    def __init__(self, denoiser: Callable[..., torch.Tensor], space: SpaceLike | None = None, takes_level: bool = False, complex_as: Literal["images", "channels"] = "images",
                 convex: bool = False):
        if isinstance(denoiser, torch.nn.Module) and denoiser.training:
            raise ValueError("PlugAndPlay got a module in training mode; call denoiser.eval() first.")
        super().__init__(space)
        self.denoiser, self.takes_level, self.complex_as, self.convex = denoiser, takes_level, complex_as, convex

    def _value(self, x):
        return x.real.new_zeros(x.shape[:x.dim() - self.ndim])

    def _prox(self, x, sigma):
        batch, image = x.shape[:x.dim() - self.ndim], x.shape[x.dim() - self.ndim:]
        parts = torch.stack([x.real, x.imag], -self.ndim - 1) if x.is_complex() else x.unsqueeze(-self.ndim - 1)
        images = parts.reshape(-1, parts.shape[-self.ndim - 1] if self.complex_as == "channels" else 1, *image)
        levels = ()
        if self.takes_level:
            s = torch.as_tensor(sigma, dtype=images.dtype, device=x.device).sqrt()
            s = s.reshape(s.shape[:max(s.dim() - self.ndim, 0)]).expand(batch).reshape(-1, 1)
            levels = (s.expand(-1, len(images) // len(s)).reshape(-1, *(1,) * (self.ndim + 1)),)
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            clean = self.denoiser(images, *levels)
        if not torch.is_tensor(clean) or clean.shape != images.shape:
            raise ValueError(f"PlugAndPlay's denoiser made {shown(clean)} of images of shape {tuple(images.shape)}; it needs to keep the shape.")
        clean = clean.reshape(parts.shape)
        return torch.complex(*clean.unbind(-self.ndim - 1)) if x.is_complex() else clean.squeeze(-self.ndim - 1)
