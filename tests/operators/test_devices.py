"""Products, values, gradients and proxes make no tensor on the CPU where their elements lie elsewhere: tried on torch's device "meta", whose tensors have no numbers."""

import copy

import pytest
import torch
from test_functionals import CASES as FUNCTIONALS
from test_functionals import FOUND as FUNCTIONAL_NAMES
from test_linear import CASES as OPERATORS
from test_linear import FOUND as OPERATOR_NAMES

import paralift as pl

THERE = torch.device("meta")
HOST = {"JosephProjector", "RayTransform", "PET", "NUFFT", "ToeplitzOperator"}        # geometry and trajectories stay on the CPU, and other libraries compute there


def moved(thing):
    """A copy with all of its tensors and spaces there."""
    if torch.is_tensor(thing):
        return torch.empty_like(thing, device=THERE)
    if isinstance(thing, (list, tuple)):
        return type(thing)(moved(v) for v in thing)
    if isinstance(thing, dict):
        return {k: moved(v) for k, v in thing.items()}
    if isinstance(thing, (pl.Space, pl.Operator, pl.Functional, pl.Penalty)):
        new = copy.copy(thing)
        for name, value in vars(thing).items():
            object.__setattr__(new, name, THERE if isinstance(value, torch.device) else moved(value))
        return new
    return thing


def looks(call, *arguments):
    """call(*arguments); None where it looks at numbers, of which there are none."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        if "meta tensors" not in str(error):
            raise


@pytest.mark.parametrize("name", [n for n in OPERATOR_NAMES if n not in HOST])
def test_operator(name):
    op = moved(OPERATORS[name])
    x, y = op.domain.zero(2), op.range.zero(2)
    for out in (op._call(x), op._adjoint(y), op._normal(x), op._resolvent(x, 0.5)):
        assert out is None or out.device == THERE


@pytest.mark.parametrize("name", [n for n in FUNCTIONAL_NAMES if n != "DirectionalTotalVariation"])             # looks at its reference in every call
def test_functional(name):
    f, points, _ = FUNCTIONALS[name]
    shape = f.space.shape if f.space is not None else tuple(points.shape[points.dim() - f.ndim:]) if points is not None else (7,) + (5,) * (f.ndim - 1)
    f, x = moved(f), torch.empty(2, *shape, dtype=torch.float64, device=THERE)
    calls = [(f._value, x)] + [(f._gradient, x)] * f.differentiable + [(f._prox, x, 0.7)] * f.has_prox
    for out in (looks(*call) for call in calls):
        assert out is None or out.device == THERE
