"""Unrolled proximal networks for reconstruction: a measurement operator inside, filters learned."""

import torch
from torch import nn

from ..arguments import Count, checked
from ..operators.linear import IdentityOperator
from ..operators.operator import LinearOperator
from ..operators.potentials import Clip
from ..operators.space import Space
from ..problems.stages import Activation

__all__ = ["UnrolledNetwork"]


@checked
class UnrolledNetwork(nn.Module):
    """min_x |A x - y|^2/2 + threshold |L x|_1 unrolled: z = A* y (n, *A.domain.shape), real or complex -> images x of the same shape, by `steps` primal-dual steps

        u_{k+1} = clip(u_k + sigma_k L_k x_k, -threshold, threshold),   x_{k+1} = x_k - tau (A* A x_k - z + L_k* u_{k+1}),   x_0 = z, u_0 = 0.

    Parameters
    ----------
    operator : A, a LinearOperator on images of two or three axes, real or complex (MRI, PET, RayTransform, Convolution, ...); it is fixed, and lies inside the stages.
    filters, kernel : number and size of the convolution filters of each L_k; a complex image has two channels inside, its real and imaginary part.

    tau = 1/|A|^2 and sigma_k = 0.45 |A|^2 / |L_k|^2, computed from the weights in every call: 1/tau - sigma_k |L_k|^2 >= |A|^2/2 holds throughout. The clip is a proximal
    map and the only activation. Raises TypeError / ValueError for an operator that is not linear or has other axes.
    Steps: Condat, J. Optim. Theory Appl. 158, 2013; unrolled with learned filters: Adler & Oktem, IEEE Trans. Med. Imaging 37(6), 2018.
    """

    def __init__(self, operator: LinearOperator, steps: Count = 6, filters: Count = 24, kernel: Count = 5, threshold: float = 0.05):
        super().__init__()
        if not isinstance(operator, LinearOperator):
            raise TypeError(f"UnrolledNetwork got {operator!r} as its operator; it needs a LinearOperator, such as MRI(mask).")
        self.d = operator.domain.ndim
        if self.d not in (2, 3) or kernel % 2 == 0:
            raise ValueError(f"UnrolledNetwork got an operator on elements of shape {operator.domain.shape} and kernel={kernel}; it needs two or three axes and an odd kernel.")
        self.operator, self.square, self.complex = operator, operator.norm() ** 2, operator.domain.dtype.is_complex
        channels, size = 1 + self.complex, kernel ** self.d
        self.filters = nn.ParameterList([nn.Parameter(torch.randn(filters, channels, *[kernel] * self.d) / (size * filters) ** 0.5) for _ in range(steps)])
        self.clip = nn.ModuleList([Activation(Clip(-threshold, threshold)) for _ in range(steps)])
        self._conv, self._transposed = (getattr(nn.functional, f"conv{extra}{self.d}d") for extra in ("", "_transpose"))

    def channels(self, x: torch.Tensor) -> torch.Tensor:
        """(n, *shape) -> (n, 1 or 2, *shape), real."""
        return torch.view_as_real(x.resolve_conj()).movedim(-1, 1) if self.complex else x.unsqueeze(1)

    def image(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `channels`."""
        return torch.view_as_complex(x.movedim(1, -1).contiguous()) if self.complex else x.squeeze(1)

    def norm_squared(self, k: int) -> torch.Tensor:
        """|L_k|^2, from the filters' transfer functions on a grid of 16 frequencies an axis (a bound for images with zeros around, 5 % added)."""
        F = torch.fft.rfftn(self.filters[k], s=(16,) * self.d, dim=tuple(range(2, 2 + self.d)))
        return 1.05 * torch.linalg.matrix_norm(F.movedim((0, 1), (-2, -1)), 2).square().amax()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x, u = z, 0.0
        for k, clip in enumerate(self.clip):
            L = self.filters[k]
            u = clip(u + 0.45 * self.square / self.norm_squared(k) * self._conv(self.channels(x), L, padding="same"))
            pull = self.operator._adjoint(self.operator._call(x)) - z
            x = x - (pull + self.image(self._transposed(u, L, padding=L.shape[-1] // 2))) / self.square
        return x

    @classmethod
    def example(cls) -> tuple["UnrolledNetwork", torch.Tensor]:
        return cls(IdentityOperator(Space((6, 6), torch.complex64)), 2, 3, 3), torch.randn(4, 6, 6, dtype=torch.complex64)
