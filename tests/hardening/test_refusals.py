"""Calls that once ended in an error of torch's or Python's own; each is refused in a sentence, or works."""

import math
import warnings

import pytest
import torch

import paralift as pl

X = torch.rand(8, 4)


def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))


def weight_normed():
    net = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(net[0])
    net(X)                                                       # weight is now a result, with its graph
    return net


def test_weight_norm_after_a_forward_pass_trains():
    problem = pl.LiftedTraining(weight_normed(), X, torch.arange(8) % 3)
    result = pl.ISGM(2, batch_size=4).solve(problem, progress=False)
    assert "0.weight_g" in result.x and result.history["objective"][-1] < math.inf
    found = result.network(X)
    assert torch.isfinite(found).all() and not torch.allclose(found, weight_normed()(X))
    pl.LiftedInversion(weight_normed(), torch.rand(2, 3), shape=4)


@pytest.mark.parametrize("make", [lambda: (pl.FISTA(5), pl.Composite(pl.LeastSquares(torch.eye(3), torch.ones(3)), pl.L1Norm())),
                                  lambda: (pl.ISGM(1, batch_size=4), pl.LiftedTraining(network(), X.clone(), torch.arange(8) % 3)),
                                  lambda: (pl.ImplicitGradient(2), pl.LiftedInversion(network(), torch.rand(2, 3))),
                                  lambda: (pl.FISTA(2), pl.SourceCondition(pl.IdentityOperator(pl.Space(3)), pl.L1Norm(), torch.ones(3)))])
def test_problems_made_in_inference_mode_are_solved_later(make):
    with torch.inference_mode():
        solver, problem = make()
    assert math.isfinite(solver.solve(problem, progress=False).objective)


def test_an_inversion_needs_numbers_with_a_point():
    with pytest.raises(TypeError, match=r"dtype torch.int64; it needs floating-point numbers: pass it as .float\(\)"):
        pl.LiftedInversion(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()), torch.ones(2, 3, dtype=torch.int64), shape=(3,))


@pytest.mark.parametrize("change", [{"weight": math.inf}, {"weight": torch.tensor([1.0, math.inf])}, {"noise": math.inf}, {"source": torch.tensor([1.0, math.nan])},
                                    {"source": torch.tensor([1.0, math.inf])}])
def test_the_inversion_bound_needs_finite_numbers(change):
    with pytest.raises(ValueError, match="finite"):
        pl.inversion_error_bound(**{"potential": pl.ReLU(), "output": torch.ones(2), "source": torch.ones(2), "weight": 1.0, "noise": 0.1, **change})


def test_certificates_need_the_problems_own_shapes():
    P = pl.SourceCondition(pl.IdentityOperator(pl.Space((3, 4))), pl.TotalVariation(), torch.rand(3, 4))
    good = P.start()
    for point in ({}, {"q": torch.ones(3)}, {"q": torch.zeros(2, 3, 4, dtype=torch.float64)}, {"q": None}, 3):
        for call in (P.certificate, P.element):
            with pytest.raises(ValueError, match=r"needs a point \{block: tensor\} such as result.x, with q of shape \(2, 3, 4\), torch.float32"):
                call(point)
    found = P.certificate(good)
    assert torch.equal(found.rate(2.0), 2 * found.norm)
    with pytest.raises(TypeError, match="Certificate.weight got delta='a'"):
        found.weight("a")
    for q in (torch.ones(2), torch.ones(3, dtype=torch.float64)):
        with pytest.raises(ValueError, match="elements of one dtype whose batch axes broadcast"):
            pl.problems.certificate.nearest_subgradient(pl.L1Norm(), torch.ones(3), q)


def test_complex_images_have_no_box():
    C = pl.Space((4, 4), torch.complex64)
    z = C.zero()
    for make in (lambda: pl.Reconstruction(pl.FourierTransform(C), z, constraint=pl.IndicatorBox(0.0, 1.0)),
                 lambda: pl.Composite(pl.LeastSquares(pl.FourierTransform(C), z), pl.IndicatorBox(0.0, 1.0)),
                 lambda: pl.Composite(pl.LeastSquares(pl.FourierTransform(C), z), 2.0 * pl.IndicatorNonnegative()),
                 lambda: pl.IndicatorBox()(z), lambda: pl.IndicatorNonnegative().prox(z)):
        with pytest.raises(TypeError, match="real numbers only|cannot compute with .*complex64"):
            make()


@pytest.mark.parametrize("f", [pl.LogSigmoid(), 2.0 * pl.NegativeEntropy(), pl.KullbackLeibler(torch.ones(3)), pl.ReLU() + pl.L1Norm(), pl.MoreauEnvelope(pl.Softmax(), 0.5)])
def test_functionals_of_real_numbers_refuse_complex_ones(f):
    z = torch.ones(3, dtype=torch.complex64)
    for call in (f, f.gradient, f.prox):
        with pytest.raises(TypeError, match="takes real numbers only"):
            call(z)
    with pytest.raises(TypeError, match="takes real numbers only"):
        f.on(pl.Space(3, torch.complex64))


def test_groups_of_samples_say_what_they_take():
    groups = pl.SampleGroups(pl.FourierTransform(pl.Space((4, 6))))
    n = len(groups.costs)
    for call, name in ((lambda: groups.mask(torch.ones(n)), "chosen"), (lambda: groups.held(torch.ones(4, 5, dtype=torch.bool)), "mask"),
                       (lambda: groups.sums(torch.ones(6, 4)), "energy"), (lambda: groups.fill(torch.ones(n + 1), 5), "scores"),
                       (lambda: groups.draw(torch.ones(n), "a"), "budget"), (lambda: groups.draw([1.0] * n, 5), "density")):
        with pytest.raises(ValueError, match=rf"SampleGroups\.\w+ got {name}="):
            call()
    assert groups.sums(torch.ones(2, 4, 6)).sum() == 48 and groups.fill(torch.ones(n), 5).dtype == torch.bool


@pytest.mark.parametrize("iterations", [{}, {4: 0.1, 8: 0.2, 16: 0.3}, {0: 1.0}, {4: -1.0}, {4: math.nan}, [4]])
def test_costs_are_completed_by_measurements(iterations):
    costs = pl.distributed.StageCosts.uniform(3, 1e-3, 2e-3, 8, 8)
    with pytest.raises(ValueError, match="of one or two numbers of rows"):
        costs.completed(iterations)
    assert costs.completed({8: 1.0}).serial_seconds(8) == pytest.approx(1.0)


def test_gradients_in_inputs_need_the_problems_inputs():
    P = pl.LiftedInversion(network(), torch.rand(2, 3))
    assert P.input_gradient(P.start()).shape == (2, 4)
    for point in ({}, {"x0": torch.ones(2, 5)}, {"x0": torch.ones(2, 4, dtype=torch.float64)}):
        with pytest.raises(ValueError, match=r"x0 of shape \(2, 4\), torch.float32"):
            P.input_gradient(point)
        with pytest.raises(ValueError, match=r"x0 of shape \(2, 4\), torch.float32"):
            P.input_value(point)


@pytest.mark.parametrize("call,words", [
    (lambda: pl.PlugAndPlay(id).prox(torch.ones(3, 3)), "denoiser made [0-9]+ of images"), (lambda: pl.RayTransform((4, 6), torch.arange(3.0), voxel_size=0), "above 0"),
    *[(lambda path=path: pl.plotting.plot_images({"a": torch.ones(1, 2, 2)}, path), "ending needs to be one of") for path in ("figure.text", "figure")],
    (lambda: pl.plotting.plot_predictions(torch.ones(1, 2, 2), torch.zeros(1), torch.tensor([math.nan])), "are NaN"),
    (lambda: pl.TotalGeneralisedVariation(max_iterations=-1), "an integer >= 1"), (lambda: pl.SampleGroups(3), "needs a LinearOperator"),
    (lambda: pl.ContrastiveTraining(network(), X, torch.arange(8) % 3, rho=pl.Space(3)), "positive finite number"),
    (lambda: pl.problems.losses.Logistic().check(torch.ones(2), torch.ones(2) + 1j), "logistic loss needs 0 and 1"),
    (lambda: pl.activation(pl.ReLU(), torch.ones(2), own=3), "own=3; it needs a function")])
def test_what_is_needed_is_said(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
