"""`Space`: what an element looks like on its trailing axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Annotated, Any

import torch

from ..arguments import Array, Kind, Numbers, Shape, are_integers, check, is_array, is_integer, shown

__all__ = ["Space"]


@dataclass(frozen=True)
class Space:
    """Shape (trailing axes), dtype and device of an element; every leading axis of a tensor is a batch axis.

    It owns no data: elements are plain tensors.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    if TYPE_CHECKING:          # what the constructor takes, and what it adds
        def __init__(self, shape: Sequence[int] | int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"): ...
        @property
        def ndim(self) -> int: ...

    def __post_init__(self):
        try:
            shape = (self.shape,) if isinstance(self.shape, int) else tuple(index(n) for n in self.shape)
        except TypeError:
            shape = None
        if shape is None or isinstance(self.shape, (bytes, dict, set)):
            raise TypeError(f"Space got the shape {shown(self.shape)}; it needs an integer, or a sequence of them.")
        if any(n < 0 for n in shape):
            raise ValueError(f"Space got the shape {shape}; every axis needs a length of at least 0.")
        if not isinstance(self.dtype, torch.dtype):
            raise TypeError(f"Space got dtype={shown(self.dtype)}; it needs a torch.dtype, such as torch.float32.")
        object.__setattr__(self, "shape", shape)
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError):
            raise ValueError(f"Space got device={shown(self.device)}; it needs a torch device, such as 'cpu' or 'cuda:0'.") from None
        if device.type == "cuda" and device.index is None and torch.cuda.is_available():
            device = torch.device("cuda", torch.cuda.current_device())                  # as tensors call it
        object.__setattr__(self, "device", device)
        object.__setattr__(self, "ndim", len(shape))

    @classmethod
    def of(cls, x: torch.Tensor) -> "Space":
        """The space of the tensor `x`: its shape, its device, and its dtype where that is no integer type."""
        check("Space.of", "x", torch.Tensor, x)
        return cls(tuple(x.shape), x.dtype if x.is_floating_point() or x.is_complex() else torch.float32, x.device)

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel()

    def fits(self, x: torch.Tensor) -> bool:
        """Whether the trailing axes of `x` are those of the space."""
        return torch.is_tensor(x) and (self.ndim == 0 or x.dim() >= self.ndim and tuple(x.shape[-self.ndim:]) == self.shape)

    def __contains__(self, x):
        return torch.is_tensor(x) and x.dtype == self.dtype and x.device.type == self.device.type and self.fits(x)

    def zero(self, *batch: int) -> torch.Tensor:
        check("Space.zero", "batch", Shape, batch)
        return torch.zeros(*batch, *self.shape, dtype=self.dtype, device=self.device)

    def randn(self, *batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Normal numbers (*batch, *shape); a generator of the CPU gives the same ones on every device."""
        check("Space.randn", "batch", Shape, batch)
        if not (self.dtype.is_floating_point or self.dtype.is_complex):
            raise TypeError(f"randn was asked of a Space of {self.dtype}; normal numbers need a floating-point or complex dtype.")
        where = self.device if generator is None else generator.device              # the numbers of a generator on the CPU are those of every device
        return torch.randn(*batch, *self.shape, dtype=self.dtype, device=where, generator=generator).to(self.device)

    def element(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as a tensor of this space's dtype and device; raises ValueError where the shape differs."""
        check("Space.element", "x", Array, x)
        x = torch.as_tensor(x, dtype=self.dtype, device=self.device)
        if not self.fits(x):
            raise ValueError(f"An element of shape {tuple(x.shape)} was given; the space needs trailing axes {self.shape}.")
        return x


SpaceLike = Annotated[Space | Sequence[int] | int, Kind("a Space, an integer or a sequence of integers >= 0",        # what `Space(...)` or a functional takes for one
                                                        lambda v: isinstance(v, Space) or is_integer(v) and v >= 0 or are_integers(v) and all(n >= 0 for n in v))]


def all_finite(x: torch.Tensor) -> bool:
    """Whether no entry is NaN or inf: the sum says so in one pass, unless it overflows."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def finite(values: Any, who: str, what: str) -> torch.Tensor:
    """`values` as a tensor of floating-point numbers; TypeError for another dtype, ValueError where it holds NaN or inf."""
    if not is_array(values):
        raise TypeError(f"{who} got a {what} that is {shown(values)}; it needs a tensor, or numbers that torch.as_tensor takes.")
    values = torch.as_tensor(values)
    if not values.is_floating_point() and not values.is_complex():
        raise TypeError(f"{who} got a {what} of dtype {values.dtype}; it needs floating-point numbers: pass it as .float() or .double().")
    if values.layout is torch.strided and not all_finite(values):
        raise ValueError(f"{who} got a {what} that holds NaN or inf; remove or repair those entries.")
    return values


def per_axis(value: Any, n: int, who: str, what: str) -> torch.Tensor:
    """`value`, a number or one for each of `n` axes, as float64 (n,) on the CPU; ValueError for another count, NaN or inf."""
    check(who, what, Numbers, value)
    v = torch.as_tensor(value, dtype=torch.float64).cpu()
    if v.dim() > 1 or v.dim() == 1 and len(v) != n or not torch.isfinite(v).all():
        raise ValueError(f"{who} got {what}={value}; it needs a finite number, or one for each of the {n} axes.")
    return v.expand(n).clone()


def sum_trailing(x: torch.Tensor, ndim: int) -> torch.Tensor:
    """Sum over the last `ndim` axes; half precision accumulates in float32."""
    wide = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else None
    if ndim == 0:
        return x
    if ndim == x.dim():
        return x.sum(dtype=wide)
    return x.sum(dim=tuple(range(-ndim, 0)), dtype=wide)


# moduli, quotients and conjugated products of complex numbers take many times what the same arithmetic takes on their parts, or by a reciprocal
def parts(x: torch.Tensor) -> torch.Tensor:
    """Complex x as real numbers (..., 2), in the same memory."""
    return torch.view_as_real(x.resolve_conj())


def squares(x: torch.Tensor) -> torch.Tensor:
    """|x|^2, coordinatewise."""
    if not x.is_complex():
        return x.square()
    v = parts(x)
    return v[..., 0].square().addcmul_(v[..., 1], v[..., 1])


def norm(x: torch.Tensor) -> torch.Tensor:
    """|x| over all axes."""
    return torch.linalg.vector_norm(parts(x) if x.is_complex() else x)


def inner(x: torch.Tensor, y: torch.Tensor, ndim: int | None = None) -> torch.Tensor:
    """Re <x, y> over the last `ndim` axes (all by default)."""
    ndim = x.dim() if ndim is None else ndim
    if x.is_complex() and y.is_complex():
        return sum_trailing(parts(x) * parts(y), ndim + 1)
    return sum_trailing(x.real * y.real if x.is_complex() or y.is_complex() else x * y, ndim)
