"""The `step` argument says the same of every method: 'auto' is the default, a wrong one is refused in a sentence before any work."""

import inspect

import pytest

import paralift as pl

SOLVERS = [cls for cls in vars(pl).values() if inspect.isclass(cls) and issubclass(cls, pl.Solver) and cls is not pl.Solver]
STEPPED = [cls for cls in SOLVERS if "step" in inspect.signature(cls).parameters]
make = lambda cls, **kw: cls(**({"strong_convexity": 0.1} if cls is pl.Katyusha else {}), **kw)


@pytest.mark.parametrize("cls", STEPPED, ids=lambda c: c.__name__)
def test_auto_is_the_default_and_wrong_steps_are_refused(cls):
    assert inspect.signature(cls).parameters["step"].default == "auto"
    assert make(cls, step="auto").step_size is not None
    for wrong in ("fast", 0, 0.0, -1.0, float("nan"), float("inf"), True, None, [0.1], ""):
        with pytest.raises(ValueError, match=rf"^{cls.__name__} got step=.*it needs .*'auto'.*(number|pair)"):
            make(cls, step=wrong)


def test_numbers_and_rules_are_taken_where_they_belong():
    for cls in STEPPED:
        make(cls, step=(0.1, 0.2) if cls in (pl.PDHG, pl.SPDHG) else 0.1)
    for step in ("backtracking", "lipschitz", pl.Lipschitz(0.5), pl.Backtracking(), pl.Constant(0.1)):
        pl.PGD(step=step), pl.FISTA(step=step)
    pl.PGD(step="barzilai_borwein")
    for call in (lambda: pl.FISTA(step=pl.BarzilaiBorwein()), lambda: pl.PGD(step=pl.BarzilaiBorwein(), acceleration="nesterov")):
        with pytest.raises(ValueError, match="without extrapolation"):
            call()
    for call in (lambda: pl.FISTA(step="barzilai_borwein"), lambda: pl.PGD(step="barzilai_borwein", acceleration="heavy_ball")):
        with pytest.raises(ValueError, match="needs 'auto', 'backtracking', 'lipschitz' or a positive number or a step rule"):
            call()


def test_a_search_that_went_too_far_is_taken_back():
    """Odd against even digits: SAGA's searched step raises the residual at first; it settles, and ends below what the bound's step reaches."""
    (x, y), _ = pl.data.digits()
    x, odd = x[:1200].double(), (y[:1200] % 2).double()
    problem = pl.linear_model((x - x.mean(0)) / x.std(0).clamp(min=1e-2), odd, loss="logistic", regulariser=1 / 1200 * pl.L1Norm())
    best = pl.FISTA(1000, tolerance=1e-8).solve(problem).objective
    searched, bound = (pl.SAGA(450, step=step).solve(problem, record_every=450) for step in ("auto", "lipschitz"))
    assert searched.state["floor"] > 0 and searched.objective - best < 0.1 * (bound.objective - best)
