"""The implicit gradient method on inputs of networks."""

import pytest
import torch
from torch import nn

import paralift as pl

D = torch.float64


def test_implicit_gradient_finds_the_input():
    """Of a network that is flat at the start, where back-propagation has no gradient at all; on two workers the same; resumed the same bits; R and C are kept."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 40), nn.Softshrink(0.5), nn.Linear(40, 40), nn.Softshrink(0.5)).double()
    with torch.no_grad():
        net[0].weight.normal_(), net[2].weight.normal_().div_(4)
        net[0].bias.zero_(), net[2].bias.zero_()
    u = torch.rand(5, 12, dtype=D)
    y, zeros = net(u).detach(), torch.zeros(5, 12, dtype=D)
    assert not torch.autograd.grad((net(zeros.requires_grad_()) - y).square().sum(), zeros)[0].any()
    problem = pl.LiftedInversion(net, y, fidelity="squared_error", rho={1: 10.0}, constraint=pl.IndicatorBox(0, 1), start=zeros.detach())
    solver = pl.ImplicitGradient(300, step=0.05)
    result = solver.solve(problem, record_every=100)
    assert ((result.solution >= 0) & (result.solution <= 1)).all() and (result.solution - u).norm() < 0.05 * u.norm()
    assert result.objective == pytest.approx(float(0.5 * (net(result.solution) - y).detach().square().sum() / 5), rel=1e-9)
    short = pl.ImplicitGradient(20)
    alone, shared = short.solve(problem), short.solve(problem, workers=pl.Workers(data=2, layers=1))
    assert (alone.solution - shared.solution).abs().max() < 1e-9 and alone.objective == pytest.approx(shared.objective, rel=1e-9)

    def stop(running):
        if running.iterations == 9:
            raise StopIteration

    half = short.solve(problem, callback=stop)
    assert half.iterations == 9 and torch.equal(short.solve(problem, resume=half).solution, alone.solution)


def test_the_continuation_is_of_the_regulariser_and_not_of_the_constraint():
    torch.manual_seed(0)
    net, y = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8)).double(), torch.randn(3, 8, dtype=D)
    solve = lambda factor, **parts: pl.ImplicitGradient(20, continuation=(0.5, factor)).solve(pl.LiftedInversion(net, y, **parts)).solution
    plain = solve(1.0, constraint=0.3 * pl.L1Norm())
    assert torch.equal(plain, solve(100.0, constraint=0.3 * pl.L1Norm())) and (plain == 0).any()
    assert not torch.allclose(solve(1.0, regulariser=0.3 * pl.L1Norm()), solve(100.0, regulariser=0.3 * pl.L1Norm()))
    problem = pl.LiftedInversion(net, y, constraint=0.3 * pl.L1Norm())
    assert torch.allclose(pl.ImplicitGradient(20, continuation=(0.5, 100.0)).solve(problem, workers=pl.Workers(data=2, layers=1)).solution, plain, rtol=1e-9, atol=1e-12)


def test_implicit_gradient_says_what_it_cannot():
    net, y = nn.Sequential(nn.Flatten(), nn.Linear(36, 14)).double(), torch.zeros(2, 14, dtype=D)
    with pytest.raises(TypeError, match="HuberTotalVariation"):
        pl.ImplicitGradient().solve(pl.LiftedInversion(net, y, pl.TotalVariation(), shape=(6, 6)))
    with pytest.raises(TypeError, match="it finds inputs of networks"):
        pl.ImplicitGradient().solve(pl.Composite(0.5 * pl.L2NormSquared(3)))
    for options in ({"continuation": 3.0}, {"continuation": (0.0, 1.0)}, {"step": -1.0}):
        with pytest.raises(ValueError, match="positive number|needs 2 finite numbers"):
            pl.ImplicitGradient(**options)
