"""Techniques of training with ISGM: schedules, decoupled weight decay, averages of iterates, accumulation, early stopping, continuation in rho."""

import math
import warnings

import pytest
import torch
from torch import nn

import paralift as pl


def problem(validation=False, rho=2.0, dropout=False):
    torch.manual_seed(0)
    (x, y), (xt, yt) = pl.data.digits()
    layers = [nn.Linear(64, 24), nn.ReLU(), *([nn.Dropout(0.3)] if dropout else []), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)]
    return pl.LiftedTraining(nn.Sequential(*layers).double(), x[:300].double(), y[:300], rho=rho, validation=(xt.double(), yt) if validation else None)


def test_weight_decay_is_adamw():
    """Equal to torch's AdamW on the same gradients: one group decays, biases do not."""
    p = problem()
    result = pl.ISGM(2, 50, weight_decay=0.3, seed=4).solve(p)
    network = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    network.load_state_dict(p.start_theta())
    optimizer = torch.optim.AdamW([{"params": [q for q in network.parameters() if q.dim() > 1], "weight_decay": 0.3},
                                   {"params": [q for q in network.parameters() if q.dim() == 1], "weight_decay": 0.0}], lr=1e-3)
    for epoch in range(2):
        order = torch.randperm(300, generator=torch.Generator().manual_seed(4 * 1_000_003 + epoch))
        for k in range(6):
            gradient = p.restrict(order[50 * k:50 * k + 50], p.start_theta()).explicit_gradient({n: q.detach() for n, q in network.named_parameters()})[1]
            for name, q in network.named_parameters():
                q.grad = gradient[name]
            optimizer.step()
    for name, q in network.named_parameters():
        assert torch.allclose(q, result.x[name], rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("schedule,factor", [("linear", lambda d: max(0.02, 1 - d)), ("cosine", lambda d: 0.51 + 0.49 * math.cos(math.pi * d)),
                                             (lambda d: min(1.0, 10 * d), lambda d: min(1.0, 10 * d))])
def test_schedules(schedule, factor):
    """Plain steps are tau_k times the gradient."""
    p = problem()
    result, theta = pl.ISGM(2, 100, 0.05, metric="plain", schedule=schedule).solve(p), p.start_theta()
    for k in range(6):
        rows = torch.randperm(300, generator=torch.Generator().manual_seed(k // 3))[100 * (k % 3):100 * (k % 3) + 100]
        gradient = p.restrict(rows, theta).explicit_gradient(theta)[1]
        theta = {n: v - 0.05 * factor(k / 6) * gradient[n] for n, v in theta.items()}
    assert all(torch.allclose(theta[n], result.x[n], rtol=1e-9, atol=1e-12) for n in theta)


def test_average_is_the_mean_of_the_iterates_and_resumes(tmp_path):
    p, seen = problem(), []
    plain = lambda n: pl.ISGM(n, 300, 0.1, metric="plain")
    plain(4).solve(p, callback=lambda r: seen.append(r.x))
    mean = p.start_theta()
    for k, x in enumerate(seen):
        a = min(0.2, (1 + k) / (10 + k))
        mean = {n: a * mean[n] + (1 - a) * x[n] for n in mean}
    solver = lambda n: pl.ISGM(n, 300, 0.1, metric="plain", average=0.2)
    result = solver(4).solve(p)
    assert all(torch.allclose(mean[n], result.x[n], rtol=1e-12) for n in mean) and not torch.equal(result.x["0.weight"], seen[-1]["0.weight"])
    assert all(torch.equal(q, result.x[n]) for n, q in result.network.named_parameters())
    again = solver(4).solve(p, resume=solver(2).solve(p))
    assert all(torch.equal(again.x[n], result.x[n]) for n in mean)
    result.save(tmp_path / "r")
    assert all(torch.equal(v, result.x[n]) for n, v in pl.Result.load(tmp_path / "r").x.items())


@pytest.mark.parametrize("parts", [2, 7])
def test_accumulated_gradients_are_the_gradient(parts):
    one, many = (pl.ISGM(2, 100, accumulate=k).solve(problem()) for k in (1, parts))
    assert all(torch.allclose(one.x[n], many.x[n], rtol=1e-9, atol=1e-12) for n in one.x) and abs(one.objective - many.objective) < 1e-12


def test_accumulation_draws_dropout_for_each_part():
    p = problem(dropout=True)
    rows = torch.arange(4)
    theta, seen = p.start_theta(), []
    p.explicit_pass(theta, [(rows[[0, 1, 0, 1]], 3)], lambda k, gradient: seen.append(gradient["3.weight"]), parts=2)
    first, = seen
    halves = p.restrict(rows[:2], theta, seed=3).explicit_gradient(theta)[1]["3.weight"]
    assert not torch.allclose(first, halves)                    # the same rows twice under two masks


def test_early_stopping_keeps_the_best():
    early = pl.EarlyStopping("accuracy", patience=2)
    result = pl.ISGM(60, 30, 3e-3).solve(problem(validation=True), callback=early)
    column = result.history["accuracy"]
    assert result.status is pl.Status.CALLBACK and early.best.history["accuracy"][-1] == max(column) and len(column) == early.best.iterations + 2
    inputs, targets = problem(validation=True).validation
    with torch.no_grad():
        assert abs(float((early.best.network(inputs).argmax(1) == targets).float().mean()) - max(column)) < 1e-6
    losses = pl.EarlyStopping("validation_loss", patience=1)
    history = pl.ISGM(200, 30, 1e-2).solve(problem(validation=True), callback=losses).history["validation_loss"]
    assert history[-1] >= history[-2] == min(history)
    with pytest.raises(ValueError, match="pass validation"):
        pl.ISGM(2, 50).solve(problem(), callback=pl.EarlyStopping())
    with pytest.raises(ValueError, match="patience=0"):
        pl.EarlyStopping(patience=0)


def test_early_stopping_serves_several_runs():
    early = pl.EarlyStopping("objective", patience=1)
    first = pl.ISGM(3, 50).solve(problem(), callback=early).objective
    second = pl.ISGM(2, 50, 1e-5).solve(problem(), callback=early)                     # a worse run, which is not compared with the first
    assert second.iterations == 2 and second.objective == early.best.objective > first


@pytest.mark.parametrize("options", [{"step": 3e-3}, {"sweeps": 3, "metric": "plain", "step": 1.0}], ids=["explicit", "implicit"])
def test_bfloat16(options):
    dtype = torch.bfloat16
    torch.manual_seed(0)
    (x, y), (xt, yt) = pl.data.digits()
    network = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).to(dtype)
    result = pl.ISGM(10, 50, **options).solve(pl.LiftedTraining(network, x.to(dtype), y, validation=(xt.to(dtype), yt)))
    assert result.network[0].weight.dtype == dtype and result.history["accuracy"][-1] > 0.9, result.history["accuracy"]


def test_early_stopping_keeps_running_statistics():
    """The best network has the normalisation of its own pass, not of the last one."""
    torch.manual_seed(0)
    (x, y), test = pl.data.digits()
    network = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    early, kept = pl.EarlyStopping("validation_loss", patience=3), []
    pl.ISGM(40, 64, 3e-2).solve(pl.LiftedTraining(network, x[:300], y[:300], validation=test), callback=lambda r: (kept.append(r.state["buffers"]["1.running_mean"]), early(r)))
    assert torch.equal(early.best.network[1].running_mean, kept[early.best.iterations - 1]) and not torch.equal(kept[-1], kept[early.best.iterations - 1])


def test_continuation_in_rho():
    """A larger rho, from the result at a smaller one: x comes nearer to the forward pass, with an S on the activations as well."""
    for extra in (None, {1: 0.01 * pl.L1Norm()}):
        torch.manual_seed(0)
        (x, y), _ = pl.data.digits()
        p = pl.LiftedTraining(nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double(), x[:200].double(), y[:200], rho=0.1, activation_regulariser=extra)
        loose = pl.PGD(100).solve(p)
        stiff = p.reweighted(10.0)
        again = pl.LiftedTraining(p.network, p.inputs, p.targets, rho=10.0, activation_regulariser=extra)
        assert abs(float(stiff.value(loose.x)) - float(again.value(loose.x))) < 1e-12 and abs(float(p.value(loose.x)) - loose.objective) < 1e-12
        tight = pl.PGD(200).solve(stiff, resume=loose)
        assert tight.history["penalty_residual"][-1] < 0.3 * loose.history["penalty_residual"][-1] and tight.objective < float(stiff.value(loose.x))
        settled = stiff.forward({n: tight.x[n] for n in p.theta_names})
        assert max(stiff.penalty_residuals(settled).values()) < 1e-12


@pytest.mark.parametrize("call,words", [
    (lambda: pl.ISGM(schedule="cos"), "'cosine'"), (lambda: pl.ISGM(weight_decay=-1), "weight_decay=-1"), (lambda: pl.ISGM(average=1.0), "below 1"),
    (lambda: pl.ISGM(schedule=lambda d: -1.0), "-1.0 at 0"),
    (lambda: pl.ISGM(inner=pl.SGD(1)), "such as PGD"), (lambda: pl.ISGM(accumulate=0), "accumulate=0"), (lambda: pl.ISGM(accumulate=2, sweeps=3), "no sum over parts")])
def test_what_training_needs_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()


class Noisy(torch.utils.data.Dataset):
    """Digits that are shifted at random."""

    def __init__(self, random=True):
        self.x, self.y = pl.data.digits()[0]
        self.random, self.read = random, 0

    def __len__(self):
        return 200

    def __getitem__(self, i):
        self.read += 1
        image = self.x[i].view(8, 8)
        return (image.roll(int(torch.randint(3, ()) - 1), 1) if self.random else image).flatten(), self.y[i]


def test_random_data_sets_are_read_anew():
    """ISGM sees other samples in every pass, the same ones in every run; a Dataset that is not random is read once."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    noisy, fixed = Noisy(), Noisy(random=False)
    runs = [pl.ISGM(3, 50, seed=5).solve(pl.LiftedTraining(network, noisy)) for _ in range(2)]
    assert all(torch.equal(runs[0].x[k], runs[1].x[k]) for k in runs[0].x) and noisy.read > 2 * 3 * 200
    problem = pl.LiftedTraining(network, noisy)
    rows = torch.arange(200)
    draws = [problem.draw(rows, seed=seed).inputs for seed in (1, 2, 1)]
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1]) and torch.equal(problem.draw(rows, seed=1).targets, problem.targets)
    state = torch.random.get_rng_state()
    problem.draw(rows, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    still = pl.LiftedTraining(network, torch.utils.data.DataLoader(fixed, batch_size=7))
    before = fixed.read
    assert torch.equal(pl.ISGM(3, 50).solve(still).x["0.weight"], pl.ISGM(3, 50).solve(pl.LiftedTraining(network, still.inputs, still.targets)).x["0.weight"])
    assert fixed.read == before


def test_groups_of_samples_go_on_with_another_rho():
    """The energy that a pass must lower is that of the problem at hand, not of the one resumed from."""
    torch.manual_seed(0)
    (x, y), _ = pl.data.digits()
    p = pl.LiftedTraining(nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double(), x[:200].double(), y[:200], rho=1.0)
    solver = lambda n: pl.BCD(n, batch_size=50, tau=3.0)
    loose = solver(3).solve(p)
    stiff = p.reweighted(10.0)
    assert float(stiff.value(loose.x)) > 1.01 * loose.objective
    tight = solver(6).solve(stiff, resume=loose)
    assert tight.objective < float(stiff.value(loose.x)) and not torch.equal(tight.x["0.weight"], loose.x["0.weight"])


def test_resuming_with_other_arguments_warns():
    p = problem()
    result = pl.ISGM(2, 50).solve(p)
    with pytest.warns(UserWarning, match="batch_size=60 instead of 50, sweeps=2 instead of 1"):
        pl.ISGM(3, 60, sweeps=2).solve(p, resume=result)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pl.ISGM(3, 50, max_seconds=100).solve(p, resume=result)
