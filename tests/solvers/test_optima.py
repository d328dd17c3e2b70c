"""Every method on every problem: it reaches the certified optimum, or refuses and names methods that can."""

import importlib
import re

import pytest
import torch
from methods import CASES, JUDGED, METHODS, exported
from problems import PROBLEMS, instance

import paralift as pl


def test_every_method_is_judged():
    """A class without an entry fails, and so does one whose entry only says why there is none."""
    for name in exported():
        variants, judges = METHODS.get(name), JUDGED.get(name)
        assert variants or judges, f"{name} has no entry: add it to METHODS (or, with a theorem of its own, to JUDGED) in tests/solvers/methods.py"
        for made, forms in (variants or {}).values():
            assert isinstance(made(1), exported()[name]) and forms, name
        for judge in judges or []:
            file, function = judge.split("::")
            assert callable(getattr(importlib.import_module(file), function)), judge


def near(best):
    def watch(result):
        if abs(result.objective - best) <= 1e-8 * abs(best):
            raise StopIteration
    return watch


@pytest.mark.parametrize("kind,variant,name", CASES)
def test_method_reaches_the_optimum(kind, variant, name):
    make, forms = METHODS[kind][variant]
    problem, best = instance(name, forms[name])
    result = make(20000).solve(problem, callback=near(best), record_every=5)
    assert result.status is pl.Status.CALLBACK, f"{(result.objective - best) / abs(best):.1e} after {result.iterations} iterations"
    assert abs(float(problem.value(result.x)) - best) <= 1e-8 * abs(best)


REFUSED = [(kind, name, form) for kind, variants in METHODS.items() for name in PROBLEMS for form in PROBLEMS[name]()[0]
           if not any(name in forms for _, forms in variants.values())]


@pytest.mark.parametrize("kind,name,form", REFUSED)
def test_what_a_method_cannot_solve_is_refused(kind, name, form):
    for make, _ in METHODS[kind].values():
        with pytest.raises((TypeError, ValueError)) as error:
            make(1).solve(instance(name, form)[0])
        others = [c for c in exported() if c != kind and re.search(rf"\b{c}\b", str(error.value))]
        assert others, f"names no method that can: {error.value}"


@pytest.mark.parametrize("restart", ["gradient", "function", "greedy", None])
def test_extrapolated_points_outside_the_domain_are_not_used(restart):
    """KL(b, x) has its minimum 0 at b; from far above momentum carries x below 0, where it is inf."""
    b = torch.tensor([0.1, 1.5, 3.0, 2.2, 0.7], dtype=torch.float64)
    problem = pl.Composite(pl.KullbackLeibler(b), pl.IndicatorNonnegative(), start=torch.full((5,), 20.0, dtype=torch.float64))
    assert pl.FISTA(500, restart=restart).solve(problem).objective < 1e-8


# (made for n iterations with the Lipschitz bound L, the problems); lasso and logistic regression by the variance-reduced methods are in test_stochastic.py
FINITE = {"SAGA": (lambda n, L: pl.SAGA(n, batch_size=4), ["nonnegative"]), "SVRG": (lambda n, L: pl.SVRG(n, batch_size=4), ["nonnegative"]),
          "Katyusha": (lambda n, L: pl.Katyusha(n, batch_size=4, strong_convexity=0.1), ["nonnegative"]), "PIAG": (lambda n, L: pl.PIAG(n, shards=4), ["nonnegative"]),
          "ISGM, explicit": (lambda n, L: pl.ISGM(n, batch_size=10**6, metric="plain", step=1 / L), ["nonnegative", "lasso", "logistic"]),
          "ISGM, implicit": (lambda n, L: pl.ISGM(n, batch_size=10**6, metric="plain", step=100 / L, sweeps=10), ["nonnegative", "lasso", "logistic"])}


@pytest.mark.parametrize("method,name", [(method, name) for method, (_, names) in FINITE.items() for name in names])
def test_finite_sums_reach_the_optimum(method, name):
    """The same problems as linear models, divided by their number of samples; with all samples in a batch ISGM's step is a proximal-gradient step, or an implicit one."""
    composite, best = instance(name, "smooth")
    F, A = composite.smooth_part, composite.smooth_part.op.matrix
    n, loss, targets = len(A), *(("logistic", 0.5 * (F.f.labels + 1)) if name == "logistic" else ("squared_error", F.data))
    regulariser = {"nonnegative": pl.IndicatorNonnegative(), "lasso": 3.0 / n * pl.L1Norm(), "logistic": 1.5 / n * pl.L1Norm()}[name]
    problem = pl.linear_model(A, targets, loss=loss, regulariser=regulariser)
    close = lambda result: abs(n * float(problem.value(result.x)) - best) <= 1e-8 * abs(best)

    def watch(result):                                   # ISGM's own objective is that of the minibatches before their steps
        if close(result):
            raise StopIteration

    L = problem.lipschitz(problem.start())["weight"]
    assert close(FINITE[method][0](2000, L).solve(problem, callback=watch, record_every=5))
