"""Imaging's regularisers: split into terms f @ K, wavelets, total variation and its relatives, against independent formulas."""

import warnings

import pytest
import torch

import paralift as pl

torch.manual_seed(0)
S = pl.Space((6, 5), torch.float64)
x = torch.randn(3, 6, 5, dtype=torch.float64)


def whole(terms, x):
    return sum(t(x) for t in terms)


SPLITS = {
    "scaled": 0.3 * pl.TotalVariation(),
    "anisotropic": pl.TotalVariation(isotropic=False),
    "sum": 0.3 * pl.TotalVariation() + 0.2 * pl.L1Norm(),
    "translated": pl.TotalVariation().translated(x[0]),
    "composed": pl.TotalVariation() @ pl.DiagonalOperator(x[1]),
    "prox_only": 2.0 * pl.NuclearNorm(),
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_terms_sum_to_the_functional(name):
    f = SPLITS[name].on(S) if name != "composed" else SPLITS[name]
    terms = f.split(S)
    assert f.auxiliary(S) == () and all(t.f.has_prox and t.op.is_linear for t in terms)
    assert torch.allclose(whole(terms, x), f(x))
    pl.Composite(linear=terms, start=S.zero())


def test_without_a_prox_there_are_no_terms():
    class Quartic(pl.Functional):
        def _value(self, x):
            return self._sum(x**4)

    with pytest.raises(TypeError, match="has no prox"):
        Quartic().split((30,))
    with pytest.raises(TypeError, match="not linear"):
        (pl.L1Norm() @ pl.ModuleOperator(torch.nn.Tanh(), pl.Space(3))).split((3,))


def test_identity_composes_away():
    D = pl.Gradient(S)
    assert (pl.IdentityOperator(D.range) @ D) is D and pl.IdentityOperator(S).norm() == 1.0
    pl.testing.check_functional(0.7 * pl.L1Norm() @ pl.IdentityOperator(S))


def primal(u, x, sigma, terms):
    return 0.5 * (u - x).abs().square().sum() + sigma * sum(t(u) for t in terms)


VARIATIONS = {
    "isotropic": (pl.TotalVariation, {}, (6, 5)), "anisotropic": (pl.TotalVariation, {"isotropic": False}, (6, 5)),
    "volume": (pl.TotalVariation, {}, (3, 4, 5)),
    "spaced": (pl.TotalVariation, {"spacing": (2.0, 0.5)}, (6, 5)),
    "frames": (pl.TotalVariation, {"axes": (1, 2)}, (2, 4, 5)),
    "vectorial": (pl.TotalVariation, {"channel_axis": 0}, (3, 4, 5)),
    "last_channel": (pl.TotalVariation, {"channel_axis": -1, "isotropic": False}, (4, 5, 2)),
    "huber": (pl.HuberTotalVariation, {"delta": 0.3, "spacing": 0.5}, (6, 5)),
    "huber_vectorial": (pl.HuberTotalVariation, {"delta": 0.2, "channel_axis": 1}, (4, 2, 5)),
    "huber_anisotropic": (pl.HuberTotalVariation, {"delta": 0.2, "isotropic": False}, (6, 5)),
    "directional": (pl.DirectionalTotalVariation, {"reference": torch.randn(6, 5, dtype=torch.float64), "eta": 1.0, "spacing": (1.0, 0.5)}, (6, 5)),
    "directional_vectorial": (pl.DirectionalTotalVariation, {"reference": torch.randn(6, 5, dtype=torch.float64), "eta": 1.0, "channel_axis": 0}, (2, 6, 5)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", VARIATIONS)
def test_prox_solves_the_split_problem(name, dtype):
    """u = x - sigma K* p with p in the dual ball of f: the gap, from the operators of `split` alone, is at most what was asked for."""
    cls, options, shape = VARIATIONS[name]
    f, space = cls(**options, space=shape, tolerance=1e-6, max_iterations=20000), pl.Space(shape, dtype)
    y = torch.randn(2, *shape, dtype=dtype)
    term, = f.split(space)
    pl.testing.check_operator(term.op)
    assert torch.allclose(term(y), f(y))
    sigma = torch.tensor([0.2, 1.0], dtype=torch.float64).reshape(2, *(1,) * len(shape))
    u = f.prox(y, sigma)
    for s, ui, yi in zip(sigma.flatten().tolist(), u, y):
        solved = pl.PDHG(2000, tolerance=1e-6).solve(pl.Composite(smooth=(0.5 * pl.L2NormSquared()).translated(yi), linear=s * term, start=yi), progress=False)
        assert (ui - solved.solution).abs().max() < 2e-2                            # |u - prox|^2 / 2 <= gap
        assert primal(ui, yi, s, [f]) <= primal(solved.solution, yi, s, [f]) + 1e-6 * float(yi.abs().square().sum())
    assert torch.equal(f.prox(y, 0.0), y)


def test_scale_and_dtype_do_not_matter():
    """prox of a x with step a sigma is a times that of x, down to float32 images of size 1e-6 and float16's own accuracy."""
    f, y = pl.TotalVariation(tolerance=1e-7), torch.randn(20, 20)
    u = f.prox(y, 0.5)
    assert (f.prox(1e-6 * y, 5e-7) * 1e6 - u).abs().max() < 1e-3 and (f.prox(y.double(), 0.5) - u).abs().max() < 1e-3
    assert f.prox(y.bfloat16(), 0.5).dtype is torch.bfloat16 and (f.prox(y.half(), 0.5).float() - u).abs().max() < 1e-2


def test_directional_variation_is_free_along_shared_edges():
    reference = torch.zeros(12, 12, dtype=torch.float64)
    reference[4:, 5:] = 1.0
    f, other = pl.DirectionalTotalVariation(reference, eta=1e-3), torch.zeros(12, 12, dtype=torch.float64)
    other[2:8, 2:8] = 1.0
    assert f(-3 * reference) < 1e-4 and abs(float(f(other) / pl.TotalVariation()(other)) - 1) < 0.2
    assert torch.allclose(pl.DirectionalTotalVariation(reference, eta=1e9)(other), pl.TotalVariation()(other))


def test_huber_gradient_serves_gradient_methods():
    f, y = pl.HuberTotalVariation(0.3, space=(6, 5), tolerance=1e-12, max_iterations=20000), x[0]
    problem = pl.Composite(smooth=0.5 * pl.L2NormSquared(space=S).translated(y) + f, start=y)
    solved = pl.PGD(3000, tolerance=1e-9).solve(problem, progress=False)
    assert (solved.solution - f.prox(y, 1.0)).abs().max() < 1e-5


# ---- total generalised variation
def test_tgv_prox_solves_the_split_problem():
    """The prox against PDHG on the joined unknown (x, w) of `split`; the value against the least of the split over w."""
    small, y = pl.Space((4, 3), torch.float64), x[0, :4, :3]
    f = pl.TotalGeneralisedVariation((1.5, 1.0), space=(4, 3), tolerance=1e-6, max_iterations=1000)
    joined = pl.ProductSpace(small, *f.auxiliary(small))
    terms = [0.4 * t for t in f.split(small)]
    data = (0.5 * pl.L2NormSquared().translated(y)) @ pl.Selection(joined, 0)
    solved = pl.PDHG(2000, tolerance=1e-6).solve(pl.Composite(linear=[data, *terms], start=joined.zero()), progress=False)
    u, w = joined.split(solved.solution)
    got = f.prox(y, 0.4)
    assert (got - u).abs().max() < 5e-3
    assert abs(float(whole(terms, solved.solution) - 0.4 * f(u))) < 1e-4 * float(f(u))
    assert primal(got, y, 0.4, [f]) <= primal(u, y, 0.4, [f]) * (1 + 1e-4)


def test_tgv_is_at_most_total_variation_and_leaves_slopes():
    f = pl.TotalGeneralisedVariation(tolerance=1e-4, max_iterations=1000)
    plane = torch.arange(6, dtype=torch.float64)[:, None] * 0.3 - torch.arange(5, dtype=torch.float64) + 2
    assert f(plane) < 1e-9 and (f(x) <= pl.TotalVariation()(x) + 1e-9).all()
    assert (f.prox(plane, 3.0) - plane).abs().max() < 0.05
    z = torch.randn(2, 5, 4, dtype=torch.complex128)
    turn = torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
    assert torch.allclose(f.prox(turn * z, 0.3), turn * f.prox(z, 0.3), atol=1e-2)


def test_tgv_value_keeps_its_tolerance_at_every_scale():
    """The value of a piecewise affine image, in any unit, is that of a long run, to the tolerance; a batch is a loop."""
    n = torch.linspace(0, 1, 24, dtype=torch.float64)
    image = n[:, None] * n**2 + (n > 0.5)
    exact = float(pl.TotalGeneralisedVariation(tolerance=1e-7, max_iterations=4000)(image))
    values = pl.TotalGeneralisedVariation(tolerance=1e-4)(torch.stack([image, 1e-3 * image, 1e4 * image, 0 * image]))
    assert torch.allclose(values, exact * torch.tensor([1, 1e-3, 1e4, 0], dtype=torch.float64), rtol=2e-4)


def test_hidden_unknowns_of_a_sum_are_joined():
    f, g = pl.TotalGeneralisedVariation(space=(6, 5)), pl.TotalVariation(space=(6, 5))
    h = 2.0 * f + g + 0.5 * f.translated(x[1])
    spaces = h.auxiliary(S)
    joined = pl.ProductSpace(S, *spaces)
    terms = h.split(S)
    assert [s.shape for s in spaces] == [(2, 6, 5)] * 2 and len(terms) == 5
    zero = joined.join(x[0], *(s.zero() for s in spaces))
    tv = pl.TotalVariation()
    assert torch.allclose(whole(terms, zero), 3 * tv(x[0]) + 0.5 * tv(x[0] - x[1]))          # w = 0: alpha_1 TV


# ---- wavelets and other unitary maps
@pytest.mark.parametrize("shape,name,levels", [((16,), "haar", 4), ((32,), "db4", 2), ((16, 24), "db2", 3), ((8, 16, 8), "sym4", 1), ((8, 8), "db4", 3), ((12, 10), "coif1", 1)])
def test_wavelet_is_that_of_pywavelets(shape, name, levels):
    pywt = pytest.importorskip("pywt")
    W, y = pl.Wavelet(pl.Space(shape, torch.float64), name, levels), torch.randn(2, *shape, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                                     # PyWavelets' own about many levels
        theirs = [pywt.coeffs_to_array(pywt.wavedecn(v.numpy(), name, mode="periodization", level=levels))[0] for v in y]
    got = W(y)
    assert max(abs(t - g.numpy()).max() for t, g in zip(theirs, got)) < 1e-12
    assert (W.adjoint(got) - y).abs().max() < 1e-10 and W.norm() == 1.0                     # PyWavelets' filters are orthogonal to 1e-11
    pl.testing.check_operator(W)
    assert int((W.details == 0).sum()) == torch.Size(s >> levels for s in shape).numel()


def test_wavelets_differentiate_and_shrink():
    space = pl.Space((2, 8, 8), torch.complex128)
    W, y = pl.Wavelet(space, "db2", axes=(1, 2)), torch.randn(3, 2, 8, 8, dtype=torch.complex128)
    assert torch.allclose(W(y)[1, 1], pl.Wavelet(pl.Space((8, 8), torch.complex128), "db2")(y[1, 1]))
    pl.testing.check_operator(W)
    for f in (0.3 * pl.L1Norm() @ W, pl.WeightedL1Norm(0.3 * W.details) @ W):
        pl.testing.check_functional(f, y)
    for op in (pl.Wavelet(pl.Space((4, 4), torch.float64), "haar"), pl.Gradient(pl.Space((2, 3), torch.float64)), pl.SymmetrisedGradient(pl.Space((3, 3), torch.float64))):
        v = op.domain.randn().requires_grad_()
        assert torch.autograd.gradgradcheck(op, v) and torch.autograd.gradcheck(op, v)
        z, dz = op.domain.randn(), op.domain.randn()
        assert torch.allclose(torch.func.jvp(op, (z,), (dz,))[1], op(dz))
        batch = op.domain.randn(3)
        assert torch.allclose(torch.func.vmap(op)(batch), op(batch))


def test_low_rank_frames():
    space = pl.Space((4, 3, 5), torch.float64)
    f = 0.5 * pl.NuclearNorm() @ pl.Casorati(space)
    pl.testing.check_functional(f)
    y = space.randn()
    assert torch.allclose(f(y), 0.5 * torch.linalg.svdvals(y.reshape(4, 15)).sum())


# ---- plug and play
def test_a_network_as_prior():
    network = pl.networks.ProximalNetwork(1, 4, 2).double().eval()
    f, y = pl.PlugAndPlay(network, convex=True), torch.randn(2, 3, 8, 8, dtype=torch.complex128)
    u = f.prox(y, 0.1)
    assert not u.requires_grad and not f.has_value and f(y).shape == (2, 3) and not f(y).any()
    assert torch.allclose(u[1, 2].imag, network(y[1, 2].imag[None, None])[0, 0].detach())
    leveled = pl.PlugAndPlay(lambda z, s: z * (1 - s), takes_level=True, complex_as="channels")
    assert torch.allclose(leveled.prox(y, 0.25), 0.5 * y)
    w = y.real.clone().requires_grad_()
    assert f.prox(w, 0.1).requires_grad
    A = pl.DiagonalOperator((torch.rand(8, 8) > 0.5).double())
    problem = pl.Composite(smooth=pl.LeastSquares(A, y[0, 0].real), nonsmooth=f, start=torch.zeros(8, 8, dtype=torch.float64))
    result = pl.PGD(20).solve(problem, progress=False)
    assert torch.isfinite(result.solution).all()


BAD = [
    (lambda: pl.TotalVariation(tolerance=-1), ValueError, "a number >= 0"), (lambda: pl.TotalVariation(channel_axis=3), ValueError, "number of -3 to 2"),
    (lambda: pl.TotalVariation(channel_axis=0, axes=(0, 1)), ValueError, "not along the channels"), (lambda: pl.TotalVariation(spacing=(1.0, -1.0)), ValueError, "positive number"),
    (lambda: pl.TotalVariation().prox(x, torch.ones(6, 5)), ValueError, "one for each sample"),
    (lambda: pl.TotalVariation().prox(x.clone().requires_grad_(), 0.1), TypeError, "without a derivative"),
    (lambda: pl.HuberTotalVariation(0), ValueError, "delta > 0"), (lambda: pl.GroupHuber(-1), ValueError, "delta > 0"),
    (lambda: pl.DirectionalTotalVariation(x[0] + 0j), TypeError, "its modulus"), (lambda: pl.DirectionalTotalVariation(x[0], eta=0), ValueError, "eta > 0"),
    (lambda: pl.DirectionalTotalVariation(x[0][:4])(x), ValueError, "resample it"), (lambda: pl.TotalGeneralisedVariation((1.0, 0.0)), ValueError, "two positive"),
    (lambda: pl.TotalGeneralisedVariation(2.0), ValueError, "2 finite numbers"),
    (lambda: pl.Wavelet((12, 10), "db2", 2), ValueError, r"1 <= levels <= 1, or an element padded to \[12, 12\]"), (lambda: pl.Wavelet((7, 8)), ValueError, "padded to"),
    (lambda: pl.Wavelet((8, 8), "bior2.2"), ValueError, "not orthogonal"), (lambda: pl.Wavelet((8, 8), "nonsense"), ValueError, "orthogonal wavelet"),
    (lambda: pl.Casorati((5,)), ValueError, "frames"), (lambda: pl.WeightedL1Norm(-torch.ones(3)), ValueError, "weights >= 0"),
    (lambda: pl.PlugAndPlay(torch.nn.Dropout()), ValueError, "training mode"), (lambda: pl.PlugAndPlay(3), TypeError, "needs a function or a module"),
    (lambda: pl.PlugAndPlay(lambda z: z[..., 1:]).prox(x), ValueError, "keep the shape"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, text = BAD[case]
    with pytest.raises(error, match=text):
        call()
