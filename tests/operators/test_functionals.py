"""Every concrete functional is found by introspection; one without an entry here fails."""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch

import paralift as pl
from paralift import operators
from paralift.operators import kernels

torch.manual_seed(0)
POSITIVE = torch.rand(6, 7, dtype=torch.float64) * 3 + 0.1
MATRIX = torch.randn(7, 7, dtype=torch.float64)
RAMP = torch.arange(4, dtype=torch.float64).expand(3, 4)
v = lambda *a: torch.tensor(a, dtype=torch.float64)
NUMBERS = POSITIVE, MATRIX, RAMP


def cases(device="cpu"):
    """{name: (instance, points or None, (element, value computed by hand))}, its numbers on the device."""
    POSITIVE, MATRIX, RAMP = (t.to(device) for t in NUMBERS)
    v = lambda *a: torch.tensor(a, dtype=torch.float64, device=device)
    return {
        "ZeroFunctional": (pl.ZeroFunctional(), None, (v(1, 2), 0)),
        "L1Norm": (pl.L1Norm(), None, (v(1, -2), 3)),
        "L2Norm": (pl.L2Norm(), None, (v(3, -4), 5)),
        "L2NormSquared": (pl.L2NormSquared(), None, (v(3, -4), 25)),
        "GroupL1Norm": (pl.GroupL1Norm(), None, (v([3, 0], [4, 1]), 6)),
        "GroupHuber": (pl.GroupHuber(0.5), None, (v([3, 0], [4, 0.3]), 4.75 + 0.09)),
        "SupNorm": (pl.SupNorm(), None, (v(3, -4), 4)),
        "NuclearNorm": (pl.NuclearNorm(), None, (v([3, 0], [0, -4]), 7)),
        "Huber": (pl.Huber(0.5), None, (v(0.25, -2), 0.0625 + 1.75)),
        "QuadraticForm": (pl.QuadraticForm(MATRIX @ MATRIX.T, MATRIX[0]), None, (torch.zeros(7, dtype=torch.float64), 0)),
        "NegativeEntropy": (pl.NegativeEntropy(), POSITIVE, (v(math.e, 1), math.e)),
        "KullbackLeibler": (pl.KullbackLeibler(POSITIVE[0]), POSITIVE, (POSITIVE[0], 0)),
        "LogisticLoss": (pl.LogisticLoss(MATRIX[0].sign()), None, (torch.zeros(7, dtype=torch.float64), 7 * math.log(2))),
        "LeastSquares": (pl.LeastSquares(MATRIX[:4], MATRIX[:4, 0], weight=1.5), None, (torch.eye(7, dtype=torch.float64)[0], 0)),
        "EuclideanKernel": (pl.EuclideanKernel(), None, (v(3, -4), 12.5)),
        "EntropyKernel": (pl.EntropyKernel(), POSITIVE, (v(math.e, 1), -1)),
        "BurgKernel": (pl.BurgKernel(), POSITIVE, (v(math.e, 1), -1)),
        "IndicatorBox": (pl.IndicatorBox(-0.5, 2.0), None, (v(0, 3), math.inf)),
        "IndicatorNonnegative": (pl.IndicatorNonnegative(), None, (v(0, -1), math.inf)),
        "IndicatorSimplex": (pl.IndicatorSimplex(2.0), None, (v(0.5, 1.5), 0)),
        "IndicatorL1Ball": (pl.IndicatorL1Ball(1.5), None, (v(1, -1), math.inf)),
        "IndicatorL2Ball": (pl.IndicatorL2Ball(1.5), None, (v(1, -1), 0)),
        "IndicatorLinfBall": (pl.IndicatorLinfBall(0.7), None, (v(1, 0), math.inf)),
        "IndicatorAffine": (pl.IndicatorAffine(MATRIX[:3], MATRIX[:3, 0]), None, (torch.eye(7, dtype=torch.float64)[0], 0)),
        "TotalVariation": (pl.TotalVariation(tolerance=1e-11, max_iterations=20000), torch.randn(5, 3, 4, dtype=torch.float64), (v([0, 3], [4, 0]), 5 + 3 + 4)),
        "TotalGeneralisedVariation": (pl.TotalGeneralisedVariation(), None, (5 * RAMP + v([0], [1], [2]), 0)),
        "WeightedL1Norm": (pl.WeightedL1Norm(v(0, 1, 2, 0.5, 3)), None, (v(7, -1, 2, 2, 0), 6)),
        "PlugAndPlay": (pl.PlugAndPlay(lambda z: z, convex=True), None, (v([1, 2]), 0)),
        "HuberTotalVariation": (pl.HuberTotalVariation(0.5, tolerance=1e-15, max_iterations=20000), torch.randn(5, 3, 4, dtype=torch.float64),
                                (v([0, 3], [4, 0]), 5 + 3 + 4 - 0.75)),
        "DirectionalTotalVariation": (pl.DirectionalTotalVariation(RAMP, 1e-8, tolerance=1e-11, max_iterations=20000), torch.randn(5, 3, 4, dtype=torch.float64),
                                      (5 * RAMP + v([0], [1], [2]), 8)),
        "DualProx": (pl.DualProx(pl.TotalVariation(), pl.IndicatorNonnegative(), pl.Space((3, 4), torch.float64, device), tolerance=1e-12, max_iterations=20000),
                     torch.randn(5, 3, 4, dtype=torch.float64), (torch.arange(12.0, dtype=torch.float64).reshape(3, 4), 6 * 17**0.5 + 2 * 4 + 3)),
        "IndicatorReal": (pl.IndicatorReal(), None, (v(1, -2), 0)),
        "Identity": (pl.Identity(), None, (v(1, 2), 0)),
        "ReLU": (pl.ReLU(), None, (v(1, 2), 0)),
        "LeakyReLU": (pl.LeakyReLU(0.2), None, (v(1, -2), 8)),
        "Clip": (pl.Clip(-0.5, 1.0), None, (v(0, 0.5), 0)),
        "HardTanh": (pl.HardTanh(), None, (v(0, 2), math.inf)),
        "ReLU6": (pl.ReLU6(), None, (v(0, 6), 0)),
        "HardSigmoid": (pl.HardSigmoid(), None, (v(1, 0.4), -0.5 + 0.4 - 1.2)),
        "SoftThreshold": (pl.SoftThreshold(0.4), None, (v(1, -2), 1.2)),
        "Tanh": (pl.Tanh(), None, (v(0, 1), math.log(2) - 0.5)),
        "Sigmoid": (pl.Sigmoid(), None, (v(1, 0.5), -0.5 - math.log(2) - 0.125)),
        "Softplus": (pl.Softplus(1.5), None, (v(0.0), math.pi**2 / 6 / 2.25)),
        "LogSigmoid": (pl.LogSigmoid(), None, (v(0.0), math.pi**2 / 6)),
        "Softmax": (pl.Softmax(), None, (v(0.5, 0.5), -math.log(2) - 0.25)),
        "ELU": (pl.ELU(0.7), None, (v(2, -0.7), 0.7 - 0.245)),
        "CELU": (pl.CELU(2.5), None, (v(2, -2.5), 3.125)),
        "SELUEnergy": (pl.SELUEnergy(), None, (v(2, -pl.SELUEnergy.slope), 2 / pl.SELUEnergy.scale + pl.SELUEnergy.slope)),
        "MoreauEnvelope": (pl.MoreauEnvelope(pl.L1Norm(), 0.5), None, (v(3, 0.5), 2.75 + 0.25)),
        "BregmanDistance": (pl.BregmanDistance(pl.L2NormSquared(), v(1, 2, 0, 0, 0)), 2 * torch.randn(6, 5, dtype=torch.float64), (v(2, 4, 0, 0, 0), 5)),
        "JointProx": (pl.JointProx(pl.ReLU(), 0.5 * pl.L1Norm()), None, (v(2, 3), 2.5)),
        "PenaltyTerm": (pl.PenaltyTerm(pl.LiftedBregman(pl.ReLU()), POSITIVE[0], MATRIX[0]), None, (POSITIVE[0] - MATRIX[0], 0)),
        "Sparsemax": (pl.Sparsemax(), None, (v(0.5, 0.5), 0)),
    }


CASES = cases()
MODULES = [importlib.import_module(f"paralift.operators.{m.name}") for m in pkgutil.iter_modules(operators.__path__)]
CLASSES = {n: c for m in MODULES for n, c in inspect.getmembers(m, inspect.isclass) if c.__module__ == m.__name__ and not n.startswith("_")}
FOUND = sorted(n for n, c in CLASSES.items() if issubclass(c, pl.Functional) and c not in (pl.Functional, kernels.Kernel))
POTENTIALS = [n for n in FOUND if CLASSES[n].__module__.endswith("potentials") and n != "SELUEnergy"]


@pytest.mark.parametrize("name", FOUND)
def test_functional(name):
    assert name in CASES, f"{name} has no entry in CASES: add an instance and a value computed by hand"
    f, points, (x, value) = CASES[name]
    if name != "TotalGeneralisedVariation":        # value and prox are iterations: test_regularisers compares them with PDHG
        # an iteration certified by its gap gives a prox that is exact to the root of the tolerance
        pl.testing.check_functional(f, points, tolerance=1e-5 if name.endswith("Variation") else 1e-6)
    got = float(f(x))
    assert got == value or abs(got - value) < 1e-9


@pytest.mark.parametrize("name", [n for n in FOUND if CASES[n][0].differentiable and CASES[n][0].has_prox and CASES[n][0].convex])
def test_prox_holds_at_every_step(name):
    """u - v + sigma grad f(u) = 0, relative to |v| + sigma, up to sigma = 1e5 (splitting methods with a small penalty take such steps)."""
    f, points, _ = CASES[name]
    x = pl.testing._points(f, points, 0)
    for sigma in (1.0, 30.0, 1e3, 1e5):
        u = f.prox(x, sigma)
        assert ((u - x + sigma * f.gradient(u)).abs() / (x.abs() + sigma)).max() < 1e-7, sigma


def test_kullback_leibler_with_a_background_is_a_translation():
    """Value, gradient, prox and conjugate are those of KL(g, .) moved by the background; its parts know their share; a count of 0 over a mean of 0 has a gradient."""
    g, b, x = POSITIVE[0].round(), POSITIVE[1], POSITIVE
    f, moved = pl.KullbackLeibler(g, background=b), pl.KullbackLeibler(g).translated(-b)
    pl.testing.check_functional(f, POSITIVE)
    pl.testing.check_functional(pl.KullbackLeibler(g, background=0.7), POSITIVE)
    y = 0.9 - POSITIVE
    for left, right in ((f(x), moved(x)), (f.gradient(x), moved.gradient(x)), (f.prox(x, 0.7), moved.prox(x, 0.7)), (f.convex_conj(y), moved.convex_conj(y)),
                        (f.convex_conj.prox(y, 0.7), moved.convex_conj.prox(y, 0.7))):
        assert torch.allclose(left, right, atol=1e-12)
    split = pl.subsets(f @ pl.MatrixOperator(MATRIX.abs()), 3)
    assert torch.allclose(sum(t(x) for t in split), (f @ pl.MatrixOperator(MATRIX.abs()))(x))
    assert torch.equal(pl.KullbackLeibler(v(0, 2)).gradient(v(0, 1)), v(1, -1))
    for background, text in ((-b, "background below 0"), (b[:3], "needs the same"), (v(math.nan), "NaN")):
        with pytest.raises(ValueError, match=text):
            pl.KullbackLeibler(g, background=background)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e2, 1e5])
def test_logistic_prox_is_found_from_every_point(sigma):
    x, f = sigma * torch.linspace(-3, 3, 2001, dtype=torch.float64), pl.LogisticLoss(torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(1001)[:2001])
    u = f.prox(x, sigma)
    assert ((u - x + sigma * f.gradient(u)).abs() / (x.abs() + sigma)).max() < 1e-12


@pytest.mark.parametrize("name", ["QuadraticForm", "KullbackLeibler", "LogisticLoss", "IndicatorAffine", "LeastSquares"])
def test_functionals_made_of_data_take_its_dtype(name):
    """So a problem made of them starts in it; integer counts and labels are no dtype for an unknown."""
    assert CASES[name][0].space.dtype is torch.float64
    assert pl.KullbackLeibler(torch.tensor([1, 2])).space.dtype is torch.float32


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("penalty", [pl.LiftedBregman, pl.MAC, pl.Lifted, pl.Fenchel])
def test_penalty(name, penalty):
    pl.testing.check_penalty(penalty(CASES[name][0]))


@pytest.mark.parametrize("name", [n for n in POTENTIALS if hasattr(CASES[n][0], "_phi_conj")])
def test_bregman_closed_form(name):
    """B(x, z) = phi(x) + phi*(z) - <x, z> with the closed phi* to 1e-12."""
    psi = CASES[name][0]
    B, z = pl.LiftedBregman(psi), 2 * torch.randn(20, 5, dtype=torch.float64)
    x = B.activation(z + torch.randn_like(z))
    conj = psi._phi_conj(z)
    conj = conj if conj.dim() == 1 else conj.sum(-1)
    closed = 0.5 * x.square().sum(-1) + psi(x) + conj - (x * z).sum(-1)
    assert (B(x, z) - closed).abs().max() < 1e-12


@pytest.mark.parametrize("name,torch_map", [("ReLU", torch.relu), ("Tanh", torch.tanh), ("Sigmoid", torch.sigmoid), ("Softmax", lambda z: torch.softmax(z, -1)),
                                            ("ReLU6", torch.nn.functional.relu6), ("HardSigmoid", torch.nn.functional.hardsigmoid),
                                            ("LogSigmoid", torch.nn.functional.logsigmoid), ("Softplus", lambda z: torch.nn.functional.softplus(z, 1.5)),
                                            ("ELU", lambda z: torch.nn.functional.elu(z, 0.7)), ("CELU", lambda z: torch.nn.functional.celu(z, 2.5)),
                                            ("LeakyReLU", lambda z: torch.nn.functional.leaky_relu(z, 0.2))])
def test_activation_is_the_prox(name, torch_map):
    z = 3 * torch.randn(50, 5, dtype=torch.float64)
    psi = CASES[name][0]
    assert (psi._prox(z, 1.0 + 1e-12) - torch_map(z)).abs().max() < 1e-8
    assert torch.equal(pl.LiftedBregman(psi).activation(z), torch_map(z))


def test_boundary_values():
    """Finite at the end of the range, infinite past it."""
    for f, end in ((pl.ELU(0.7), 0.7), (pl.CELU(2.5), 2.5), (pl.SELUEnergy(), pl.SELUEnergy.slope)):
        assert torch.isfinite(f(v(-end))) and f(v(-end - 1e-6)) == math.inf and f(v(0.0)) == 0


def test_selu_by_the_fenchel_penalty():
    selu = torch.nn.SELU()
    P = pl.Fenchel(pl.SELUEnergy(), activation=selu, slope=pl.SELUEnergy.slope)
    pl.testing.check_penalty(P)
    z = 3 * torch.randn(200, 1, dtype=torch.float64)
    x = selu(z)
    assert (P.potential._gradient(x) - z).abs().max() < 1e-9                      # sigma inverts F'
    y = selu(z + torch.randn_like(z))
    assert (P(y, z) >= 0.5 * (y - x).square().sum(-1) / pl.SELUEnergy.slope - 1e-12).all()


@pytest.mark.parametrize("s", [1e-12, 1e-3, 0.5, 1 - 1e-9, 1.5, 10.0])
def test_softmax_prox_solves_its_equation(s):
    """(1 - s) u + s log u - x is the same number where u > 0, for steps however small: a subproblem starts with such a step."""
    x = 5 * torch.randn(50, 30, dtype=torch.float64)
    u = pl.Softmax()._prox(x, s)
    r = (1 - s) * u + s * u.clamp(min=1e-300).log() - x
    assert ((r - (r * u).sum(-1, keepdim=True)).abs() * u).max() < 1e-9 * max(s, 1)


def test_softmax_along_any_axis():
    """The same functional as along the last axis, of the turned element."""
    z = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    for axis in (-1, 1, -3, 0):
        psi, d = pl.Softmax(axis).on((4, 2, 3)), axis + 1 if axis >= 0 else axis
        turn = lambda t: t.transpose(d, -1)
        B, last = pl.LiftedBregman(psi), pl.LiftedBregman(pl.Softmax().on(tuple(turn(z).shape[1:])))
        x = torch.softmax(z + 1, d)
        assert torch.equal(B.activation(z), torch.softmax(z, d)) and torch.allclose(B(x, z), last(turn(x), turn(z)))
    assert torch.allclose(turn(psi._prox(z, 0.6)), last.potential._prox(turn(z), 0.6))
    with pytest.raises(ValueError, match="no such axis"):
        pl.Softmax(3).on((4, 2))


@pytest.mark.parametrize("call,text", [(lambda: pl.ELU(1.5), "0 < alpha <= 1"), (lambda: pl.ELU(0), "0 < alpha"), (lambda: pl.CELU(-1), "alpha > 0"),
                                       (lambda: pl.Softmax(None), "needs an integer"), (lambda: pl.Softplus(0), "beta > 0")])
def test_bad_parameters(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("sigma", [-0.5, math.nan, v(0.5, -0.5)])
@pytest.mark.parametrize("f", [pl.L1Norm(), 2.0 * pl.L1Norm(), pl.ReLU(), pl.Huber(0.5).translated(v(1, 2)), pl.L2Norm().convex_conj], ids=repr)
def test_negative_steps_are_refused(f, sigma):
    for call in (lambda: f.prox(v(1, 2), sigma), lambda: f.proximal(sigma)):
        with pytest.raises(ValueError, match="prox step .*positive number"):
            call()


def test_elements_of_another_space_are_refused():
    x, f = torch.ones(2, 4), pl.L2NormSquared(space=3)
    for call in (lambda: f(x), lambda: f.prox(x), lambda: f.proximal(0.5)(x), lambda: f.gradient(x)):
        with pytest.raises(ValueError, match=r"shape \(2, 4\); it needs trailing axes \(3,\)"):
            call()


BROKEN = torch.eye(3).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(math.nan))


@pytest.mark.parametrize("call,error,text", [
    (lambda: pl.L2NormSquared().translated(BROKEN[1]), ValueError, "NaN or inf"), (lambda: pl.L1Norm().translated(math.inf), ValueError, "NaN or inf"),
    (lambda: pl.L1Norm().translated([1.0, 2.0]), TypeError, "torch.as_tensor"), (lambda: pl.LeastSquares(torch.eye(3), BROKEN[1]), ValueError, "NaN or inf"),
    (lambda: pl.QuadraticForm(BROKEN), ValueError, "matrix that holds NaN"), (lambda: pl.QuadraticForm(torch.eye(3), BROKEN[1]), ValueError, "vector that holds NaN"),
    (lambda: pl.QuadraticForm(torch.eye(3), torch.ones(2)), ValueError, r"vector of shape \(2,\)"),
    (lambda: pl.IndicatorAffine(BROKEN, torch.ones(3)), ValueError, "matrix that holds NaN"),
    (lambda: pl.IndicatorAffine(torch.eye(3), BROKEN[1]), ValueError, "right side that holds NaN")])
def test_bad_data(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("f", [pl.L1Norm(), pl.Huber(0.5), pl.L2NormSquared(), pl.IndicatorNonnegative(), pl.SoftThreshold(0.3)])
def test_dtype_is_kept(f):
    for dtype in (torch.float32, torch.bfloat16):
        assert f.prox(torch.randn(4, 3).to(dtype), 0.5).dtype == dtype


def test_algebra():
    x = torch.randn(4, 7, dtype=torch.float64)
    shift = torch.randn(7, dtype=torch.float64)
    for f in (0.7 * pl.L1Norm(), pl.L1Norm().translated(shift), pl.Huber(0.5).bregman(shift), pl.MoreauEnvelope(pl.L1Norm(), 0.5)):
        pl.testing.check_functional(f)
    assert torch.allclose(pl.MoreauEnvelope(pl.L1Norm(), 0.5)(x), pl.Huber(0.5)(x))
    assert torch.allclose((pl.L1Norm() + pl.L2NormSquared())(x), x.abs().sum(-1) + x.square().sum(-1))
    assert pl.L1Norm().on((4, 7))(x).dim() == 0
    with pytest.raises(TypeError, match="on the left"):
        pl.L1Norm() * 2
    with pytest.raises(ValueError, match=">= 0"):
        -1.0 * pl.L1Norm()


@pytest.mark.parametrize("f", [pl.L1Norm(()), pl.L2Norm(()), pl.SupNorm(()), pl.IndicatorLinfBall(1.0, ()), pl.IndicatorL1Ball(1.0, ()), pl.IndicatorL2Ball(1.0, ()),
                               pl.IndicatorBox(-1.0, 1.0, ())], ids=lambda f: type(f).__name__)
def test_elements_may_be_numbers(f):
    """On numbers norms are the modulus, balls the interval: of a batch each has its value, its conjugate's value and its prox."""
    x = v(-2, 0.5, 1)
    ball, norm = v(math.inf, 0, 0), v(2, 0.5, 1)
    is_norm = type(f).__name__.endswith("Norm")
    assert torch.equal(f(x), norm if is_norm else ball) and torch.equal(f.convex_conj(x), ball if is_norm else norm)
    assert torch.allclose(f.prox(x, 0.25), v(-1.75, 0.25, 0.75) if is_norm else v(-1, 0.5, 1))


def test_complex_proxes():
    x = torch.randn(5, 7, dtype=torch.complex128)
    for f in (pl.L1Norm(), pl.Huber(0.5), pl.IndicatorL2Ball(1.0), pl.IndicatorLinfBall(0.5), pl.IndicatorL1Ball(1.0)):
        turn = torch.exp(torch.tensor(0.3j, dtype=torch.complex128))
        assert torch.allclose(f.prox(turn * x, 0.4), turn * f.prox(x, 0.4))


def test_a_wrong_potential_is_caught():
    class Wrong(pl.Functional):
        def _value(self, x):
            return 2 * x.abs().sum(-1)

        def _prox(self, x, sigma):
            return x - x.clamp(-sigma, sigma)

    with pytest.raises(pl.testing.CheckFailed):
        pl.testing.check_functional(Wrong())
    with pytest.raises(pl.testing.CheckFailed):
        pl.testing.check_penalty(pl.LiftedBregman(Wrong()))


SINGLE = [(pl.KullbackLeibler(torch.tensor([1e4, 3e5, 7.0, 0.3, 0.0])), torch.tensor([1.003e4, 2.991e5, 7.01, 1e-9, 2.0])), (pl.Tanh(), torch.tensor([1e-3, -3e-2, 1.0])),
          (pl.ELU(0.7), torch.tensor([-1e-3, 2e-2, -0.7])), (pl.SELUEnergy(), torch.tensor([-1e-3, 2e-2]))]


@pytest.mark.parametrize("f,x", SINGLE, ids=lambda v: type(v).__name__ if isinstance(v, pl.Functional) else "")
def test_values_in_single_precision(f, x):
    """Coordinate by coordinate the value is that of double precision to rounding of the second order in x (of KL: in x - data), where terms of the first order cancel."""
    wide = type(f).__new__(type(f))
    vars(wide).update({k: v.double() if torch.is_tensor(v) else v for k, v in vars(f).items()})
    f, wide = f.on(()), wide.on(())
    first = (x - f.data).abs() if isinstance(f, pl.KullbackLeibler) else x.abs()
    assert ((f._value(x).double() - wide._value(x.double())).abs() <= 4e-7 * (first + wide._value(x.double()).abs())).all()


@pytest.mark.parametrize("f", [pl.Huber(0.5), pl.GroupHuber(0.5), pl.MoreauEnvelope(pl.L1Norm(), 0.5)], ids=lambda f: type(f).__name__)
def test_proxes_with_large_steps_in_single_precision(f):
    """What a large step leaves of x is exact, relatively, and steps may differ from sample to sample."""
    x, steps = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 3.0, 1e3, 1e5]).reshape(4, 1, 1)
    p, exact = f.prox(x, steps), f.prox(x.double(), steps.double())
    assert p.dtype == x.dtype and ((p.double() - exact).abs() <= 1e-6 * exact.abs()).all()


def test_prox_of_kullback_leibler_in_single_precision():
    """The root stays exact, relatively, where the step is far larger than x."""
    x, g = torch.tensor([1.0, 5.0, 0.0, 300.0]), torch.tensor([0.25, 3.0, 0.0, 2.0])
    p, exact = pl.KullbackLeibler(g).prox(x, 1000.0), pl.KullbackLeibler(g.double()).prox(x.double(), 1000.0)
    assert ((p.double() - exact).abs() <= 1e-6 * exact).all()


def test_distances_of_kernels_do_not_cancel():
    x = torch.linspace(0.5, 2.0, 50)
    u = x * (1 + 1e-5)
    for h in (pl.EuclideanKernel(), pl.EntropyKernel(), pl.BurgKernel()):
        assert float(h.distance(u, x)) == pytest.approx(float(h.distance(u.double(), x.double())), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_projections_onto_a_simplex_in_half_precision(dtype):
    """Sums over a thousand entries, which half precision cannot count."""
    x = 4 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    for f in (pl.IndicatorSimplex(), pl.IndicatorL1Ball(1.0)):
        assert (f.prox(x.to(dtype), 1.0).float() - f.prox(x.to(dtype).float(), 1.0)).abs().max() < 1e-2
