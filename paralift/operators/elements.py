"""What public calls ask of an element, in constant time."""

import torch

from ..arguments import shown

__all__ = ["NUMBERS", "REALS", "misfit", "no_samples"]

REALS = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
NUMBERS = REALS | {torch.complex128, torch.complex64}


def misfit(thing, x, shape, ndim=0):
    """The exception for an element that `thing`, on trailing axes `shape` (None: any of at least `ndim`), does not take."""
    name = type(thing).__name__
    if not isinstance(x, torch.Tensor):
        return TypeError(f"{name} got {shown(x)} as an element; it needs a tensor of floating-point numbers: torch.as_tensor(x, dtype=torch.float32) makes one.")
    if x.dtype not in NUMBERS:
        return TypeError(f"{name} got an element of dtype {x.dtype}; it needs floating-point or complex numbers: pass it as .float() or .double().")
    if x.is_complex() and getattr(thing, "_dtypes", NUMBERS) is REALS:
        return TypeError(f"{name} got an element of dtype {x.dtype}; it takes real numbers only: pass its real part, or constrain it by IndicatorReal(nonnegative=True).")
    if shape is None:
        return ValueError(f"{name} got an element of shape {tuple(x.shape)}; it needs at least {ndim} axes, and batch axes before them.")
    return ValueError(f"{name} got an element of shape {tuple(x.shape)}; it needs trailing axes {shape}.")


def no_samples(x, ndim):
    """Whether a batch axis of x is empty: then so is what is computed, also where torch's kernels refuse such tensors."""
    return 0 in x.shape[:x.dim() - ndim]
