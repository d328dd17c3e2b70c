"""Unrolled proximal networks for denoising."""

from typing import Any, Literal

import torch
from torch import nn

from ..arguments import Count, checked
from ..operators.potentials import Clip
from ..problems.stages import Activation

Variant = Literal["dual_forward_backward", "chambolle_pock"]
__all__ = ["ProximalNetwork"]


@checked
class ProximalNetwork(nn.Module):
    """min_x |x - z|^2/2 + threshold |L x|_1 unrolled: noisy images z (n, channels, height, width) -> denoised, by `steps` layers

        u_{k+1} = clip(v_k - tau_k L_k (L_k* v_k - z), -threshold_k, threshold_k),   x = z - L* u.

    Parameters
    ----------
    variant : "dual_forward_backward" (v_k = u_k), or "chambolle_pock" (with inertia: v_k = u_k + theta_k (u_k - u_{k-1}), theta_k learned, in [0, 1)).
    filters, kernel : number and size of the convolution filters of each L_k.

    tau_k = 1.8 / |L_k|^2, computed from the weights in every call (and differentiated with them), so tau_k |L_k|^2 < 2 holds throughout and each layer
    is non-expansive in u. Raises ValueError for an even kernel. The clip is a proximal map and the only activation, so B of the clip ties the layers. Sources:
    Wang, Benning & Repetti, MLSP 2024; Le, Repetti & Pustelnik, arXiv 2308.03139.
    """

    def __init__(self, channels: Count = 1, filters: Count = 32, steps: Count = 10, kernel: Count = 3, threshold: float = 0.05, variant: Variant = "dual_forward_backward"):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"ProximalNetwork got kernel={kernel}; it needs an odd number, so that L_k* is the adjoint of L_k on images of the same size.")
        self.filters = nn.ParameterList([nn.Parameter(torch.randn(filters, channels, kernel, kernel) / (kernel * filters**0.5)) for _ in range(steps)])
        self.inertia = nn.Parameter(torch.zeros(steps)) if variant == "chambolle_pock" else None
        self.clip = nn.ModuleList([Activation(Clip(-threshold, threshold)) for _ in range(steps)])

    def analysis(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """L_k x."""
        return nn.functional.conv2d(x, self.filters[k], padding="same")

    def synthesis(self, k: int, u: torch.Tensor) -> torch.Tensor:
        """L_k* u."""
        return nn.functional.conv_transpose2d(u, self.filters[k], padding=self.filters[k].shape[-1] // 2)

    def step_size(self, k: int) -> torch.Tensor:
        """1.8 / |L_k|^2, from the filters' transfer functions on a grid of 32 x 32 frequencies (a bound for images with zeros around, 5 % added)."""
        F = torch.fft.rfft2(self.filters[k], s=(32, 32)).permute(2, 3, 0, 1)
        return 1.8 / (1.05 * torch.linalg.matrix_norm(F, 2).square().amax())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        u: Any = None
        before: Any = None
        for k, clip in enumerate(self.clip):
            tau = self.step_size(k)
            if u is None:
                v, r = 0.0, -z
            else:
                v = u if self.inertia is None or before is None else u + torch.sigmoid(self.inertia[k]) * (u - before)
                r = self.synthesis(k, v) - z
            u, before = clip(v - tau * self.analysis(k, r)), u
        return z - self.synthesis(len(self.clip) - 1, u)

    @classmethod
    def example(cls) -> tuple["ProximalNetwork", torch.Tensor]:
        return cls(1, 3, 3), torch.randn(4, 1, 6, 6)
