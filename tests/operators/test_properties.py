"""Every operator and functional on drawn batch axes, memory layouts and dtypes (hypothesis, the same draws in every run): none of these may change what is computed."""

import copy
import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_functionals import CASES as FUNCTIONALS
from test_functionals import FOUND as FUNCTIONAL_NAMES
from test_linear import CASES as OPERATORS
from test_linear import FOUND as OPERATOR_NAMES

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=3, phases=[Phase.explicit, Phase.generate])
settings.load_profile("ci")

BATCHES = st.lists(st.integers(0, 3), max_size=2).map(tuple)
LAYOUTS = st.sampled_from(["contiguous", "strided", "transposed", "expanded", "offset", "negated"])
REAL = st.sampled_from([torch.float32, torch.float64])
SLOW = {"TotalGeneralisedVariation", "DualProx", "TotalVariation", "HuberTotalVariation", "DirectionalTotalVariation"}          # iterations, certified to a tolerance
MODULI = {"ZeroFunctional", "L1Norm", "L2Norm", "L2NormSquared", "GroupL1Norm", "GroupHuber", "SupNorm", "NuclearNorm", "Huber", "Identity", "SoftThreshold", "IndicatorL1Ball",
          "IndicatorL2Ball", "IndicatorLinfBall", "TotalVariation", "HuberTotalVariation", "MoreauEnvelope", "PlugAndPlay"}         # f(e^(it) x) = f(x)


def laid(x, layout):
    """The same numbers in other memory."""
    if layout == "strided":
        return torch.stack([x, x + 1], -1)[..., 0]
    if layout == "transposed" and x.dim() > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "offset":
        return torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape)
    if layout == "negated" and x.is_complex():
        return torch.conj(x.conj().resolve_conj())                            # a lazy conjugate
    if layout == "expanded" and x.dim():
        return x[:1].expand(x.shape)
    return x.clone()


def points(f, cases_points, batch, dtype, seed):
    """Elements with these batch axes, positive where the functional's own points are."""
    shape = f.space.shape if f.space is not None else tuple(cases_points.shape[cases_points.dim() - f.ndim:]) if cases_points is not None else (7,) + (5,) * (f.ndim - 1)
    x = 2 * torch.randn(*batch, *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return x.abs() + 0.1 if cases_points is not None and bool((cases_points > 0).all()) else x


def same(a, b, tolerance):
    assert a.shape == b.shape
    finite = torch.isfinite(b)
    assert torch.equal(finite, torch.isfinite(a)) and not torch.isnan(a).any()
    assert torch.allclose(a[finite], b[finite], rtol=tolerance, atol=tolerance)


def quick(name):
    """The case, its iteration ended early: an early end is the same for a batch and for its elements only roughly."""
    f, own, value = FUNCTIONALS[name]
    if name in SLOW:
        f = copy.copy(f)
        f.tolerance, f.max_iterations = 1e-7, 100
    return f, own, value


@pytest.mark.parametrize("name", FUNCTIONAL_NAMES)
@given(batch=BATCHES, layout=LAYOUTS, dtype=REAL, seed=st.integers(0, 99), sigma=st.floats(0.1, 3.0))
def test_functional(name, batch, layout, dtype, seed, sigma):
    """Value, prox and gradient of a batch are those of its elements one by one, in every memory layout, and in float32 those of float64."""
    f, own, _ = quick(name)
    x = laid(points(f, own, batch, dtype, seed), layout)
    prox = lambda v: f.prox(v, sigma)
    for call in [f] + [prox] * f.has_prox + [f.gradient] * f.differentiable:
        try:
            x = laid(prox(x), layout) if call == f.gradient and f.has_prox else x             # inside the domain
            y = call(x)
        except ValueError as error:
            assert dtype is torch.float32 and "torch.float64" in str(error)                  # its own numbers are double
            continue
        assert y.shape == (batch if call is f else x.shape)
        flat = x.reshape(math.prod(batch), *x.shape[len(batch):]) if math.prod(batch) else x.new_zeros(0, *x.shape[len(batch):])
        alone = [call(v.contiguous()) for v in flat]
        if alone:
            tolerance = 1e-3 if name in SLOW else 1e-4 if dtype is torch.float32 else 1e-8
            same(y.reshape(-1, *y.shape[len(batch):]), torch.stack(alone), tolerance)
            if dtype is torch.float32 and name != "NuclearNorm" and call != f.gradient:           # gradients are steep at the edge of a domain
                wide = call(x.double())
                near = torch.isfinite(wide) & torch.isfinite(y)              # the edge of a domain is rounded
                assert torch.allclose(y[near].double(), wide[near], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", sorted(MODULI))
@given(batch=BATCHES, layout=LAYOUTS, dtype=st.sampled_from([torch.complex64, torch.complex128]), turn=st.floats(0.1, 6.0), seed=st.integers(0, 99))
def test_complex_functional(name, batch, layout, dtype, turn, seed):
    """Functionals of moduli do not see a common phase, and their prox passes it on."""
    f, own, _ = quick(name)
    x = laid(points(f, own, batch, dtype, seed), layout)
    phase = torch.exp(torch.tensor(1j * turn, dtype=dtype))
    tolerance = 1e-3 if name in SLOW or dtype is torch.complex64 else 1e-8
    same(f(phase * x), f(x), tolerance)
    assert not f(x).is_complex()
    if f.has_prox and name != "PlugAndPlay":
        p = f.prox(x, 0.7)
        assert p.dtype == dtype and torch.allclose(f.prox(phase * x, 0.7), phase * p, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("name", OPERATOR_NAMES)
@given(batch=BATCHES, layouts=st.tuples(LAYOUTS, LAYOUTS), seed=st.integers(0, 99))
def test_operator(name, batch, layouts, seed):
    """A batch is its elements one by one, in every memory layout, for the operator and its adjoint; <A x, y> = <x, A* y>, batch by batch."""
    op, g = OPERATORS[name], torch.Generator().manual_seed(seed)
    x, y = laid(op.domain.randn(*batch, generator=g), layouts[0]), laid(op.range.randn(*batch, generator=g), layouts[1])
    for act, v, space in ((op, x, op.domain), (op.adjoint, y, op.range)):
        out = act(v)
        assert out.shape[:len(batch)] == batch and act.range.fits(out) and out.dtype == act.range.dtype
        rows = [act(row.contiguous()) for row in (v.reshape(math.prod(batch), *space.shape) if math.prod(batch) else ())]
        if rows:
            same(torch.view_as_real(out.reshape(-1, *act.range.shape)) if out.is_complex() else out.reshape(-1, *act.range.shape),
                 torch.view_as_real(torch.stack(rows)) if out.is_complex() else torch.stack(rows), 1e-8)
    left, right = ((a * b.conj()).flatten(len(batch)).sum(-1) for a, b in ((op(x), y), (x, op.adjoint(y))))
    size = op(x).abs().flatten(len(batch)).sum(-1) + 1
    assert bool(((left.real - right.real).abs() <= 1e-8 * size * (1 + y.abs().max() if y.numel() else 1)).all())


@pytest.mark.parametrize("name", OPERATOR_NAMES)
@given(seed=st.integers(0, 99))
def test_operator_on_complex_elements(name, seed):
    """An operator on real elements maps complex ones by their parts, or refuses them in a sentence."""
    op = OPERATORS[name]
    if op.domain.dtype.is_complex:
        return
    u, v = (op.domain.randn(generator=torch.Generator().manual_seed(s)) for s in (seed, seed + 1))
    try:
        out = op(torch.complex(u, v))
    except (TypeError, ValueError) as error:
        assert len(str(error).split()) > 8
    else:
        assert torch.allclose(out, op(u) + 1j * op(v), atol=1e-8)
