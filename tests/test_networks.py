"""Every ready network, found by itself: it lifts, its lifted gradients are right, and one sweep with a large weight tends to back-propagation."""

import copy
import inspect

import pytest
import torch
from torch import nn

import paralift as pl

CLASSES = [cls for _, cls in inspect.getmembers(pl.networks, inspect.isclass)]


def build(cls, rho=2.0):
    torch.manual_seed(0)
    network, inputs = cls.example()
    network, inputs = network.double(), inputs.to(torch.complex128) if inputs.is_complex() else inputs.double() if inputs.is_floating_point() else inputs
    output = copy.deepcopy(network).train()(inputs)
    classifies = cls.__name__ not in ("UNet", "ProximalNetwork", "UnrolledNetwork")
    targets = torch.randint(output.shape[-1], output.shape[:-1]) if classifies else torch.randn(output.shape, dtype=output.dtype)
    return network, pl.LiftedTraining(network, inputs, targets, loss="cross_entropy" if classifies else "squared_error", rho=rho)


def torch_loss(problem, z):
    if isinstance(problem.loss, pl.CrossEntropy):
        return nn.functional.cross_entropy(z.flatten(0, -2), problem.targets.flatten(), reduction="sum") / problem.samples
    return 0.5 * (z - problem.targets).abs().square().sum() / problem.samples


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_lifted_gradients(cls):
    problem = build(cls)[1]
    assert problem.depth > 2 and "stages" in repr(problem)
    pl.testing.check_problem(problem)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_steps_within_their_bounds_descend(cls):
    """PGD with the steps of its own bounds, complex networks too."""
    objective = pl.PGD(4).solve(build(cls)[1], progress=False).history["objective"]
    assert all(b < a for a, b in zip(objective, objective[1:]))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_one_sweep_tends_to_back_propagation(cls):
    network, problem = build(cls, rho=1e7)
    loss, gradient = problem.explicit_gradient(problem.start_theta())
    reference = torch_loss(problem, network.train()(problem.inputs))
    reference.backward()
    assert abs(float(loss) - float(reference.detach())) < 1e-10 * abs(float(loss))
    total = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
    for name, p in network.named_parameters():
        assert (gradient[name] - p.grad).norm() <= 1e-5 * p.grad.norm() + 1e-9 * total, name


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_training_lowers_the_loss(cls):
    problem = build(cls)[1]
    history = pl.ISGM(15, batch_size=2, step=1e-2).solve(problem).history["objective"]
    assert history[-1] < history[0]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_lent_inputs_change_nothing(cls, monkeypatch):
    """Sweeps that drop what they can compute again, and gather pulls on parts in one buffer, give the gradients of those that keep all."""
    from paralift.problems import sweeps

    problem, gradients = build(cls)[1], []
    for large in (1, 10**9):
        monkeypatch.setattr(sweeps, "LARGE", large)
        gradients.append(problem.explicit_gradient(problem.start_theta()))
    assert gradients[0][0] == gradients[1][0]
    for name, g in gradients[1][1].items():
        assert torch.allclose(gradients[0][1][name], g, rtol=1e-12, atol=1e-14 * float(g.abs().max())), name


def test_queries_keys_and_values_share_a_buffer(monkeypatch):
    from paralift.problems import sweeps

    problem, made = build(pl.networks.CausalTransformer)[1], []
    monkeypatch.setattr(sweeps, "LARGE", 1)
    monkeypatch.setattr(sweeps, "Pieces", lambda z: made.append(pl.problems.loans.Pieces(z)) or made[-1])
    problem.explicit_gradient(problem.start_theta())
    assert len(made) == 2 and all(p.filled == {0, 1, 2} for p in made)              # one a block


@pytest.mark.parametrize("make", [lambda: (pl.networks.ResNet(1, 10, (3, 1, 1), 16), torch.randn(64, 1, 28, 28), torch.randint(10, (64,))),
                                  lambda: (pl.networks.CausalTransformer(50, 64, 2, 4, 64), torch.randint(50, (16, 64)), torch.randint(50, (16, 64)))], ids=["ResNet", "GPT"])
def test_a_sweep_needs_little_more_memory_than_back_propagation(make):
    """Peak of the tensors alive, counted by the profiler: at most 1.2 times torch's."""
    torch.manual_seed(0)
    network, x, y = make()
    problem = pl.LiftedTraining(network, x, y)
    theta = problem.start_theta()

    def peak(run):
        run()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run()
        now = most = 0
        for event in sorted((e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return most

    plain = lambda: torch.autograd.grad(nn.functional.cross_entropy(network(x).flatten(0, -2), y.flatten()), list(network.parameters()))
    assert peak(lambda: problem.explicit_gradient(theta)) <= 1.2 * peak(plain)


def test_proximal_network_steps_keep_their_bound():
    torch.manual_seed(0)
    for variant in ("dual_forward_backward", "chambolle_pock"):
        network = pl.networks.ProximalNetwork(2, 5, 3, variant=variant)
        for k in range(3):
            x = torch.randn(1, 2, 24, 24)
            for _ in range(200):
                x = network.synthesis(k, network.analysis(k, x / x.norm()))
            assert 1.5 < float(network.step_size(k).detach()) * float(x.norm().detach()) < 2
        y, u = torch.randn(1, 2, 9, 9), torch.randn(1, 5, 9, 9)
        assert abs(float(((network.analysis(0, y) * u).sum() - (network.synthesis(0, u) * y).sum()).detach())) < 1e-4
        stages = pl.lift(network, torch.randn(2, 2, 9, 9))
        assert [type(s.penalty.potential).__name__ for s in stages[:-1]] == ["Clip"] * 3


def test_rescale_gives_every_layer_mean_square_one():
    torch.manual_seed(0)
    x = torch.randn(200, 20)
    network = pl.networks.rescale(pl.networks.MLP(20, *[16] * 30, 4), x)
    for module in network:
        x = module(x)
        if isinstance(module, nn.Linear):
            assert abs(float(x.square().mean().detach()) - 1) < 1e-3 and not module.bias.any()


def test_bad_sizes():
    N = pl.networks
    for call, text in ((lambda: N.MLP(3), "at least an input"), (lambda: N.CNN(1, 2, 3, (4, 4)), "halve"), (lambda: N.UNet(1, 2, residual=True), "equal"),
                       (lambda: N.CausalTransformer(5, 10, heads=3), "multiple of the heads"), (lambda: N.VisionTransformer(side=5, patch=2), "multiple of the patch"),
                       (lambda: N.CausalTransformer(5, attention="linear"), "'softmax', 'relu'"), (lambda: N.ProximalNetwork(variant="x"), "dual_forward_backward")):
        with pytest.raises(ValueError, match=text):
            call()


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if issubclass(cls, nn.Sequential)], ids=lambda c: c.__name__)
def test_a_chain_can_be_sliced(cls):
    network, inputs = cls.example()
    head, tail = network[:2], network[2:]
    assert network[0] is head[0] and network[-1] is tail[-1] and [*head.state_dict(), *tail.state_dict()] == [*network.state_dict()]
    assert torch.equal(tail.eval()(head.eval()(inputs)), network.eval()(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_activations_in_place_are_the_activations(dtype):
    """What may overwrite z gives the same numbers, to the bit."""
    z = 3 * torch.randn(6, 5, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = [p for p in (pl.ReLU(), pl.Clip(-0.3, 0.8), pl.Softmax(), pl.Softmax(0)) if hasattr(p, "_activation_")]
    assert len(found) == 4
    for potential in found:
        bound = potential.on((5, 40))
        assert torch.equal(bound._activation_(z.clone()), bound._activation(z))


@pytest.mark.parametrize("metric", ["adam", "momentum", "plain"])
def test_a_parameter_of_two_stages_moves_once(metric):
    """The first step of a parameter that two stages use, and whose gradient lies in another order in memory, is that of its whole gradient."""
    network, inputs = pl.networks.UnrolledNetwork.example()
    targets = torch.randn_like(inputs)
    problem = pl.LiftedTraining(network, inputs, targets, loss="squared_error", rho=1e4)
    assert len(set(problem.theta_names)) == len(problem.theta_names) == len(list(network.parameters()))
    gradient = problem.explicit_gradient(problem.start_theta())[1]
    trained = pl.ISGM(1, batch_size=len(inputs), step=1e-3, metric=metric).solve(problem, progress=False).network
    for name, p in trained.named_parameters():
        change, g = (problem.initial[name] - p.detach()) / 1e-3, gradient[name]
        assert torch.allclose(change, g / (g.abs() + 1e-8) if metric == "adam" else g, atol=2e-3, rtol=1e-3), name


@pytest.mark.parametrize("attention", ["softmax", "fused"])
def test_dropout_of_attention_weights(attention):
    """Both forms drop weights while they train, and none in evaluation; the layer's other dropouts are left out."""
    torch.manual_seed(0)
    block = pl.networks.VisionTransformer(1, 4, 3, 2, 8, 1, 2, attention=attention, dropout=0.5).blocks[0].double()
    h, seen = torch.randn(2, 4, 8, dtype=torch.float64), []
    block.out.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    for mode in (False, False, True, True):
        block.train(mode)(h, None)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[2], seen[3]) and not torch.equal(seen[0], seen[2])


def test_an_even_kernel_has_no_adjoint_of_the_same_size():
    with pytest.raises(ValueError, match="kernel=4"):
        pl.networks.ProximalNetwork(kernel=4)
