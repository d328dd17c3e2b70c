"""What a method promises besides its optimum: refusals that name methods that can, warnings, stopping rules, exact resume. All exported methods, by introspection."""

import re
import warnings

import pytest
import torch
from methods import METHODS, exported
from problems import instance, network

import paralift as pl

KINDS = exported()
MADE = {name: (lambda kind=kind: kind(strong_convexity=1.0) if kind is pl.Katyusha else kind()) for name, kind in KINDS.items()}


def refused(name, call, also=()):
    """The sentence; it names an exported method other than `name`."""
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    text = str(error.value)
    assert any(re.search(rf"\b{other}\b", text) for other in KINDS if other != name), f"names no method that can: {text}"
    assert "\n" not in text and all(word in text for word in also), text
    return text


# ---- refusals
class Bare(pl.Problem):
    """A problem that has everything, or everything but one attribute."""

    samples, smooth, has_prox, convex, linear = 10, True, True, True, ((None, None),)

    def start(self):
        return {"x": torch.zeros(2)}


@pytest.mark.parametrize("name,attribute", [(name, attribute) for name, kind in KINDS.items() for attribute, _ in kind.needs])
def test_a_missing_attribute_is_explained(name, attribute):
    problem = Bare()
    setattr(problem, attribute, () if attribute == "linear" else 0 if attribute == "samples" else False)
    refused(name, lambda: MADE[name]().solve(problem))


@pytest.mark.parametrize("name", KINDS)
def test_other_objects_are_refused(name):
    with pytest.raises(TypeError, match="needs a Problem"):
        MADE[name]().solve("a lasso")


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if not kind.splits])
def test_linear_terms_are_refused_by_methods_that_do_not_split(name):
    problem = Bare()
    refused(name, lambda: MADE[name]().solve(problem), ["PDHG"])


def linear_model(**kw):
    g = torch.Generator().manual_seed(0)
    return pl.linear_model(torch.rand(20, 3, dtype=torch.float64, generator=g), torch.rand(20, dtype=torch.float64, generator=g), **kw)


poisson, lasso, split = (lambda: instance("poisson", "smooth")[0]), (lambda: instance("lasso", "smooth")[0]), (lambda: instance("lasso", "split")[0])
counts = lambda: linear_model(loss="kullback_leibler")
IDENTITY = pl.IdentityOperator(pl.Space(40, torch.float64))
A, b = torch.eye(3, 4, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
REQUESTS = {                                             # (method, call, words besides a method that can)
    "constant step without a bound": ("PGD", lambda: pl.PGD(step=0.1).solve(poisson()), ["without a finite Lipschitz bound", "backtracking"]),
    "the same, accelerated": ("FISTA", lambda: pl.FISTA(step=0.1).solve(poisson()), ["Lipschitz", "BregmanPGD"]),
    "the same, as a rule": ("PGD", lambda: pl.PGD(step=pl.solvers.Constant(0.1)).solve(poisson()), ["backtracking"]),
    "1/L without a bound": ("FISTA", lambda: pl.FISTA(step="lipschitz").solve(poisson()), ["'x'", "PDHG"]),
    "late gradients without a bound": ("PIAG", lambda: pl.PIAG().solve(poisson()), ["backtracking"]),
    "scale space without a bound": ("LinearizedBregman", lambda: pl.LinearizedBregman().solve(poisson()), ["BregmanPGD"]),
    "explicit step without a bound": ("PDHG", lambda: pl.PDHG().solve(poisson()), ["linear=f @ K"]),
    "explicit step without a bound, ADMM": ("ADMM", lambda: pl.ADMM().solve(pl.Composite(poisson().smooth_part, None, pl.L1Norm() @ IDENTITY)), ["linear=f @ K"]),
    "table without a bound": ("SAGA", lambda: pl.SAGA().solve(counts()), ["SGD"]),
    "snapshot without a bound": ("SVRG", lambda: pl.SVRG().solve(counts()), ["backtracking"]),
    "acceleration without a bound": ("Katyusha", lambda: pl.Katyusha(strong_convexity=1.0).solve(counts()), ["SGD"]),
    "acceleration without its constant": ("Katyusha", lambda: pl.Katyusha(), ["SVRG"]),
    "accelerated without strong convexity": ("PDHG", lambda: pl.PDHG(variant="accelerated").solve(split()), ["adaptive"]),
    "an l1 norm by quasi-Newton": ("LBFGS", lambda: pl.LBFGS().solve(lasso()), ["L1Norm"]),
    "complex unknown by scipy": ("LBFGS", lambda: pl.LBFGS().solve(pl.Composite(pl.L2NormSquared(), start=torch.ones(2, dtype=torch.complex64))), ["complex"]),
    "start on the boundary": ("BregmanPGD", lambda: pl.BregmanPGD().solve(lasso()), ["start > 0"]),
    "no Bregman step": ("BregmanPGD", lambda: pl.BregmanPGD(kernel="burg").solve(instance("simplex", "smooth")[0]), ["BurgKernel"]),
    "no prox of the smooth part": ("DouglasRachford", lambda: pl.DouglasRachford().solve(instance("logistic", "smooth")[0]), ["LogisticLoss"]),
    "K not the identity": ("DouglasRachford", lambda: pl.DouglasRachford().solve(split()), ["identity"]),
    "three parts by a method for two": ("DouglasRachford", lambda: pl.DouglasRachford().solve(instance("simplex", "three")[0]), ["3 parts"]),
    "nothing to split": ("ADMM", lambda: pl.ADMM().solve(pl.Composite(0.5 * pl.L2NormSquared(), start=b)), ["H(K x)"]),
    "a network by a convex method": ("PDHG", lambda: pl.PDHG().solve(network(20)), ["not convex"]),
    "blocks by PDHG": ("PDHG", lambda: pl.PDHG().solve(linear_model()), ["Composite"]),
    "blocks by Douglas-Rachford": ("DouglasRachford", lambda: pl.DouglasRachford().solve(linear_model()), ["Composite"]),
    "blocks by kernels": ("BregmanPGD", lambda: pl.BregmanPGD().solve(linear_model()), ["Composite"]),
    "blocks by quasi-Newton": ("LBFGS", lambda: pl.LBFGS().solve(linear_model()), ["Composite"]),
    "minibatches of a composite": ("ISGM", lambda: pl.ISGM().solve(lasso()), ["samples"]),
}


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_a_method_cannot_do_is_explained(request_):
    name, call, words = REQUESTS[request_]
    refused(name, call, words)


@pytest.mark.parametrize("call,words", [
    (lambda: pl.Composite(pl.QuadraticForm(torch.eye(3)), pl.IndicatorAffine(torch.eye(4), torch.ones(4))), r"smooth part on \(3,\), the nonsmooth part on \(4,\)"),
    (lambda: pl.Composite(pl.QuadraticForm(torch.eye(3)), pl.L1Norm(), start=torch.zeros(4)), r"start of shape \(4,\).*smooth part needs.*\(3,\)"),
    (lambda: pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), pl.L1Norm(space=3)), r"smooth part on \(4,\), the nonsmooth part on \(3,\)"),
    (lambda: pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A.T @ A), r"shape \(3,\).*\(4,\)"),
    (lambda: pl.KullbackLeibler(b) @ pl.MatrixOperator(A.T @ A), r"needs trailing axes \(3,\), the operator gives \(4,\)")])
def test_parts_of_different_shapes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("form", ["smooth", "split"])
def test_parts_of_different_dtypes_are_refused(form):
    term = 0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A)
    with pytest.raises(TypeError, match="of dtype torch.float64 and a start of dtype torch.float32; convert"):
        pl.Composite(term if form == "smooth" else None, pl.L1Norm(), term if form == "split" else None, start=torch.zeros(4))
    images = pl.Composite(pl.L2NormSquared(), None, pl.L1Norm() @ pl.Gradient((4, 4)), start=torch.zeros(4, 4, dtype=torch.float64))         # differences act on any dtype
    assert pl.PDHG(3).solve(images).success


def test_a_tolerance_that_nothing_reaches_is_refused():
    for tolerance in (1e-6, pl.Tolerance(residual=1e-6)):
        with pytest.raises(ValueError, match="SGD records no residual"):
            pl.SGD(tolerance=tolerance).solve(linear_model())


# ---- warnings
def saddle_step(factor):
    problem = split()
    return (factor / problem.linear[0][1].norm(),) * 2


BOUND = lambda problem: 1 / problem().lipschitz(problem().start())["x"]
sum_bound = lambda solver: min(solver._steps(linear_model(), linear_model().start_theta(), {"SAGA": lambda L, ell, n, b: 1 / (4 * ell), "SVRG": lambda L, ell, n, b: 1 / (6 * ell),
                                                                                        "Katyusha": lambda L, ell, n, b: 1 / ell}[type(solver).__name__]).values())
# class: (made for a step of so many times the theorem's bound, the problem)
STEPS = {
    "PGD": [(lambda f: pl.PGD(3, step=2 * f * BOUND(lasso)), lasso), (lambda f: pl.PGD(3, step=pl.solvers.Lipschitz(2 * f)), lasso),
            (lambda f: pl.PGD(3, step=3.8 * f * BOUND(lasso), acceleration="heavy_ball"), lasso), (lambda f: pl.PGD(3, step=f * BOUND(lasso), acceleration="nesterov"), lasso)],
    "FISTA": [(lambda f: pl.FISTA(3, step=f * BOUND(lasso)), lasso), (lambda f: pl.FISTA(3, step=pl.solvers.Constant(f * BOUND(lasso))), lasso),
              (lambda f: pl.FISTA(3, step="lipschitz" if f < 1 else pl.solvers.Lipschitz(f)), lasso)],
    "BCD": [(lambda f: pl.BCD(3, step=f), lasso)],
    "BregmanPGD": [(lambda f: pl.BregmanPGD(3, step=f / 10, bound=10), lambda: instance("simplex", "smooth")[0])],
    "LinearizedBregman": [(lambda f: pl.LinearizedBregman(3, step=2 * f * BOUND(lasso)), lasso)],
    "PDHG": [(lambda f: pl.PDHG(3, step=saddle_step(f)), split)],
    "SPDHG": [(lambda f: pl.SPDHG(3, step=saddle_step(f)), split)],
    "PIAG": [(lambda f: pl.PIAG(3, step=f * 0.99 * BOUND(lasso)), lasso), (lambda f: pl.PIAG(3, delays=4, step=f * 0.99 * BOUND(lasso) / 5), lasso)],
    "SGD": [(lambda f: pl.SGD(3, step=f * pl.SGD().start(linear_model())["step"]), linear_model)],
    "SAGA": [(lambda f: pl.SAGA(3, step=f * sum_bound(pl.SAGA())), linear_model)],
    "SVRG": [(lambda f: pl.SVRG(3, step=f * sum_bound(pl.SVRG())), linear_model)],
    "Katyusha": [(lambda f: pl.Katyusha(3, step=f * sum_bound(pl.Katyusha(strong_convexity=0.01)), strong_convexity=0.01), linear_model)],
}
ANY_STEP = {"DouglasRachford": "converges for every tau", "ADMM": "for every rho", "ISGM": "the implicit step for every tau; the explicit one has no theorem", "LBFGS": "searches",
            "ImplicitGradient": "no theorem, as Adam", "ConjugateGradient": "has no step", "MLEM": "has no step", "OSEM": "has no step"}


@pytest.mark.parametrize("name", KINDS)
def test_steps_above_the_bound_warn(name):
    assert (name in STEPS) != (name in ANY_STEP), f"{name} has no entry: add it to STEPS, with the bound of its theorem, or to ANY_STEP"
    for made, problem in STEPS.get(name, []):
        with pytest.warns(UserWarning, match="above|covers|break"):
            made(1.2).solve(problem())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made(0.9).solve(problem())


# ---- stopping
def test_each_stopping_rule_says_that_it_stopped():
    run = lambda rule, **kw: pl.FISTA(10 ** 6, tolerance=rule, **kw).solve(lasso())
    best = instance("lasso", "smooth")[1]
    result = run(pl.Tolerance(residual=1e-6))
    assert result.status is pl.Status.CONVERGED and result.residual <= 1e-6 < result.history["residual"][-2] and re.match(r"residual \S+ <= 1e-06$", result.reason)
    assert run(1e-6).iterations == result.iterations
    result = run(pl.Tolerance(gap=1e-6))
    assert result.status is pl.Status.CONVERGED and re.match(r"gap \S+ <= 1e-06$", result.reason)
    assert result.objective - best <= result.history["gap"][-1] * max(1, result.objective) + 1e-12 and result.history["gap"][-1] <= 1e-6 < result.history["gap"][-2]
    result = run(pl.Tolerance(change=1e-6))
    before, last = result.history["objective"][-2:]
    assert result.status is pl.Status.CONVERGED and abs(before - last) <= 1e-6 * max(1, abs(last)) and result.reason.startswith("change ")
    result = run(pl.Tolerance(objective=1.01 * best))
    assert result.status is pl.Status.CONVERGED and result.objective <= 1.01 * best < result.history["objective"][-2] and result.reason.startswith("objective ")
    result = run(pl.Tolerance(passes=7))
    assert result.status is pl.Status.MAX_PASSES and result.data_passes == 7 and result.reason == "passes 7 >= 7 passes"
    result = run(pl.Tolerance(seconds=0.02))
    assert result.status is pl.Status.MAX_SECONDS and result.history["seconds"][-1] >= 0.02 > result.history["seconds"][-2] and result.reason.endswith(">= 0.02 s")
    result = run(pl.Tolerance(objective=-1.0), max_seconds=0.02)
    assert result.status is pl.Status.MAX_SECONDS and result.reason.startswith("seconds ")
    result = pl.FISTA(9).solve(lasso())
    assert result.status is pl.Status.MAX_ITERATIONS and result.iterations == 9 and result.reason == "iterations 9 >= 9"
    result = run(pl.Tolerance(residual=1e-3) & pl.Tolerance(gap=1e-5))
    assert result.residual <= 1e-3 and result.history["gap"][-1] <= 1e-5 and " and " in result.reason
    result = run(pl.Tolerance(residual=1e-30) | pl.Tolerance(passes=20))
    assert result.status is pl.Status.MAX_PASSES and result.iterations == 20
    with pytest.warns(UserWarning):
        result = pl.PGD(5000, step=50 * BOUND(lasso)).solve(lasso())
    assert result.status is pl.Status.DIVERGED and "in iteration" in result.reason and all(torch.isfinite(v).all() for v in result.x.values())


# ---- resume
NETWORK = {                                              # class: makers for a network (exact resume of the methods for composites is tested on METHODS)
    "PGD": [lambda n: pl.PGD(n), lambda n: pl.PGD(n, acceleration="nesterov")],
    "BCD": [lambda n: pl.BCD(n), lambda n: pl.BCD(n, order="random", inertia=0.5), lambda n: pl.BCD(n, order="red_black"),
            lambda n: pl.BCD(n, batch_size=90, order="random", inner_steps=2)],
    "ISGM": [lambda n: pl.ISGM(n, batch_size=50), lambda n: pl.ISGM(n, batch_size=50, sweeps=2, metric="momentum"),
             lambda n: pl.ISGM(n, batch_size=50, inner=pl.PGD(2), metric="plain")],
    "SGD": [lambda n: pl.SGD(n, metric="adam"), lambda n: pl.SGD(n, metric="momentum", schedule="inverse")],
    "SAGA": [lambda n: pl.SAGA(n, step=0.1)], "SVRG": [lambda n: pl.SVRG(n, step=0.1), lambda n: pl.SVRG(n, step=0.1, refresh="epoch")],
    "Katyusha": [lambda n: pl.Katyusha(n, step=0.1, strong_convexity=0.1)],
    "PIAG": [lambda n: pl.PIAG(n, delays="random", max_delay=7, step="bold"), lambda n: pl.PIAG(n, delays=[0, 5], momentum=0.3)],
}
COMPOSITE = {"LinearizedBregman": [(lambda n: pl.LinearizedBregman(n), "lasso", "smooth")],
             **{name: [(make, *next(iter(forms.items()))) for make, forms in variants.values()] for name, variants in METHODS.items()}}


def emission():
    b = torch.tensor([3.0, 0.0, 7.0, 2.0], dtype=torch.float64)
    return pl.Reconstruction(pl.MatrixOperator(torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1), b, "poisson")


def quadratic():
    A = torch.randn(20, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return pl.Reconstruction(pl.MatrixOperator(A), A[:, 0], regulariser=0.1 * pl.L2NormSquared())


def inversion():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 8), torch.nn.ReLU()).double()
    return pl.LiftedInversion(net, net(torch.rand(4, 6, dtype=torch.float64)).detach(), fidelity="squared_error")


RESUMED = [(name, make, network, 6) for name, makers in NETWORK.items() for make in makers]
RESUMED += [(name, make, lambda problem=problem, form=form: instance(problem, form)[0], 4 if name == "LBFGS" else 40)
            for name, cases in COMPOSITE.items() for make, problem, form in cases]
RESUMED += [("PDHG", lambda n: pl.PDHG(n, variant="accelerated"), lambda: instance("tv", "split")[0], 40),
            ("BregmanPGD", lambda n: pl.BregmanPGD(n, kernel="burg"), poisson, 40), ("SAGA", lambda n: pl.SAGA(n), linear_model, 6), ("SGD", lambda n: pl.SGD(n), linear_model, 6),
            ("MLEM", lambda n: pl.MLEM(n), poisson, 20), ("OSEM", lambda n: pl.OSEM(n, subsets=2), emission, 10),
            ("ConjugateGradient", lambda n: pl.ConjugateGradient(n), quadratic, 10),
            ("ImplicitGradient", lambda n: pl.ImplicitGradient(n, continuation=(1.0, 1.0)), inversion, 10)]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.mark.parametrize("name,make,problem,n", RESUMED, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(RESUMED)])
def test_resume_is_exact_and_runs_repeat(name, make, problem, n, tmp_path):
    """n steps are n/2 and n/2 more, bit for bit: the objectives, the passes and the whole state, from the result and from a checkpoint; and a run repeats itself."""
    problem = problem()
    whole, again, half = make(n).solve(problem), make(n).solve(problem), make(n // 2).solve(problem, checkpoint=tmp_path / "half")
    assert half.iterations == n // 2 and isinstance(make(1), KINDS[name])
    for other in (again, make(n).solve(problem, resume=half), make(n).solve(problem, resume=tmp_path / "half")):
        assert other.history["objective"] == whole.history["objective"] and other.data_passes == whole.data_passes and other.iterations == n
        assert same(other.state, whole.state)


def test_every_method_is_resumed():
    assert set(KINDS) == {name for name, *_ in RESUMED}, "add the missing method to METHODS in methods.py, or to NETWORK or RESUMED here"
