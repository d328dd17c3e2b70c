import pytest
import torch
from torch import nn

import paralift as pl

torch.manual_seed(0)
X = torch.randn(12, 5, dtype=torch.float64)
LABELS = torch.arange(12) % 3


def mlp(activation, out=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), activation, nn.Linear(6, 4), activation, nn.Linear(4, out)).double()


@pytest.mark.parametrize("penalty", ["bregman", "mac", "lifted", "fenchel"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.1), nn.Softplus(), nn.Softshrink(0.2), nn.Hardtanh()], ids=lambda a: type(a).__name__)
def test_gradients(penalty, activation):
    pl.testing.check_problem(pl.LiftedTraining(mlp(activation), X, LABELS, penalty=penalty, rho={1: 0.7, 2: 1.3}))


@pytest.mark.parametrize("loss,targets", [("squared_error", torch.randn(12, 3, dtype=torch.float64)), ("huber", torch.randn(12, 3, dtype=torch.float64)),
                                          (pl.CrossEntropy(label_smoothing=0.1), LABELS), (pl.CrossEntropy(ignore_index=-1), torch.where(LABELS == 0, -1, LABELS))])
def test_losses(loss, targets):
    pl.testing.check_problem(pl.LiftedTraining(mlp(nn.Tanh()), X, targets, loss=loss))


def test_loss_of_the_last_activation_and_kullback_leibler():
    target = torch.rand(12, 3, dtype=torch.float64)
    net = lambda last: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), last).double()
    pl.testing.check_problem(pl.LiftedTraining(net(nn.Sigmoid()), X, target, loss="bregman"))
    pl.testing.check_problem(pl.LiftedTraining(net(nn.Softplus()), X, target, loss="kullback_leibler"))


def test_cross_entropy_is_the_bregman_distance_of_softmax():
    z = torch.randn(12, 3, dtype=torch.float64)
    y = nn.functional.one_hot(LABELS, 3).double()
    assert torch.allclose(pl.LiftedBregman(pl.Softmax())(y, z), nn.functional.cross_entropy(z, LABELS, reduction="none"), atol=1e-12)


def convolutional():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh(),
                         nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3)).double()


def test_convolutions_and_normalisation():
    pl.testing.check_problem(pl.LiftedTraining(convolutional(), torch.randn(6, 1, 8, 8, dtype=torch.float64), LABELS[:6]))


def test_large_rho_tends_to_back_propagation():
    """One sweep with a large weight is back-propagation: a check of the sweep, not a claim."""
    for net, inputs in ((mlp(nn.Tanh()), X[:6]), (convolutional(), torch.randn(6, 1, 8, 8, dtype=torch.float64))):
        problem = pl.LiftedTraining(net, inputs, LABELS[:6], penalty="bregman", rho=1e6)
        _, gradient = problem.explicit_gradient(problem.start_theta())
        nn.functional.cross_entropy(net.train()(inputs), LABELS[:6]).backward()
        for name, p in net.named_parameters():
            assert (gradient[name] - p.grad).norm() <= 1e-4 * p.grad.norm() + 1e-9, name


def test_no_activation_is_differentiated():
    """The gradient of a ReLU network never calls autograd's backward of an activation: no graph reaches one."""
    from torch.profiler import ProfilerActivity, profile

    problem = pl.LiftedTraining(mlp(nn.Tanh()), X, LABELS)
    point = problem.start()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        problem.linearise(point)
        problem.explicit_gradient(problem.start_theta())
    names = {event.key for event in trace.key_averages()}
    assert "aten::tanh" in names and not any("tanh_backward" in n or "Tanh" in n for n in names)


def test_implicit_sweeps_lower_the_energy():
    problem = pl.LiftedTraining(mlp(nn.ReLU()), X, LABELS)
    theta = problem.start_theta()
    sub = problem.restrict(slice(0, 12), theta, tau=10.0)
    values = [float(sub.value(sub.forward(theta)))]
    for sweeps in (1, 2, 4, 8, 16):
        values.append(float(sub.implicit_energy(theta, 10.0, sweeps)))
    assert all(b <= a + 1e-12 for a, b in zip(values, values[1:])) and values[-1] < 0.9 * values[0]


def test_gelu_gets_mac_with_a_warning():
    with pytest.warns(UserWarning, match="GELU.*no proximal map"):
        problem = pl.LiftedTraining(nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)).double(), X, LABELS)
    pl.testing.check_problem(problem)


def test_network_is_copied_and_buffers_move():
    net = convolutional()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    problem = pl.LiftedTraining(net, torch.randn(6, 1, 8, 8, dtype=torch.float64), LABELS[:6])
    result = pl.ISGM(epochs=2, batch_size=3, sweeps=2, metric="plain").solve(problem)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert int(result.network.state_dict()["1.num_batches_tracked"]) == 4          # once a minibatch, whatever the sweeps
    assert not torch.equal(result.network[1].running_mean, net[1].running_mean)


def test_the_table_names_all_regularisers():
    problem = pl.LiftedTraining(mlp(nn.ReLU()), X, LABELS, weight_regulariser=0.1 * pl.L1Norm(), activation_regulariser={1: 0.2 * pl.L2Norm()})
    text = repr(problem)
    assert "LiftedBregman(ReLU) " in text and "  x1: 0.2 * L2Norm on (6,)" in text and "  0.weight: 0.1 * L1Norm on (6, 5)" in text


def test_data_with_a_graph_or_made_under_inference():
    with torch.inference_mode():
        frozen = X + 0
    plain = pl.PGD(3).solve(pl.LiftedTraining(mlp(nn.Tanh()), X, LABELS)).objective
    for inputs in (X.clone().requires_grad_(), frozen):
        problem = pl.LiftedTraining(mlp(nn.Tanh()), inputs, LABELS, validation=(inputs, LABELS))
        assert pl.PGD(3).solve(problem).objective == plain and pl.ISGM(1, 4).solve(problem).success


def normed(*after):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), *after, nn.Linear(4, 3)).double()


class Twice(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + self.inner(x).tanh()


@pytest.mark.parametrize("wrap", [lambda m: m, Twice], ids=["chain", "graph"])
def test_a_batch_normalisation_of_one_sample_is_refused(wrap):
    problem = pl.LiftedTraining(wrap(normed()), X, LABELS)
    for solver in (pl.ISGM(1, 1), pl.ISGM(1, 4, accumulate=4), pl.SGD(1, 1), pl.SVRG(1, 1), pl.BCD(1, batch_size=1)):
        with pytest.raises(ValueError, match="1 sample at a time.*larger batch_size"):
            solver.solve(problem)
    for solver in (pl.ISGM(1, 11), pl.SVRG(1, 11), pl.BCD(1, batch_size=11)):                 # 12 samples: no group of one is left over
        assert solver.solve(problem).iterations == 1
    with pytest.raises(ValueError, match="1 sample at a time"):
        pl.LiftedTraining(wrap(normed()), X[:1], LABELS[:1])
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    assert pl.ISGM(1, 1).solve(pl.LiftedTraining(convolutional(), images, LABELS[:3])).iterations == 1          # many values a channel


class Columns(nn.Module):
    """A table for each column, and a forward of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Embedding(3, 4), nn.Embedding(50, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.relu(self.a(x[:, 0]) + self.b(x[:, 1])))


def test_numbers_outside_an_embedding_are_found_wherever_they_are():
    chain = nn.Sequential(nn.Embedding(7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    words, rows = torch.arange(48).view(12, 4) % 7, torch.stack([LABELS, torch.arange(12)], 1)
    for network, good, place, bad in ((chain, words, (9, 2), 7), (chain, words, (11, 0), -1), (Columns(), rows, (8, 0), 3)):
        wrong = good.clone()
        wrong[place] = bad
        with pytest.raises(ValueError, match=f"Embedding got numbers from .* table of {7 if network is chain else 3} rows"):
            pl.LiftedTraining(network, wrong, LABELS)
        with pytest.raises(ValueError, match="validation: an Embedding"):
            pl.LiftedTraining(network, good, LABELS, validation=(wrong, LABELS))
        assert pl.ISGM(1, 4).solve(pl.LiftedTraining(network, good, LABELS)).iterations == 1


net = lambda: mlp(nn.ReLU())
BAD = [
    (lambda: pl.LiftedTraining(net(), X, LABELS + 1), ValueError, "labels from 1 to 3"),
    (lambda: pl.LiftedTraining(net(), X, LABELS.double()), TypeError, "integer class numbers"),
    (lambda: pl.LiftedTraining(net(), X[:5], LABELS), ValueError, "5 inputs and 12 targets"),
    (lambda: pl.LiftedTraining(net(), X[:0], LABELS[:0]), ValueError, "no samples"),
    (lambda: pl.LiftedTraining(net(), X / 0, LABELS), ValueError, "NaN or inf"),
    (lambda: pl.LiftedTraining(net(), X.float(), LABELS), TypeError, "float32"),
    (lambda: pl.LiftedTraining(net(), X[:, :4], LABELS), ValueError, "stage 1"),
    (lambda: pl.LiftedTraining(net(), X, LABELS, loss="nonsense"), ValueError, "choose one of"),
    (lambda: pl.LiftedTraining(net(), X, LABELS, penalty="nonsense"), ValueError, "choose one of"),
    (lambda: pl.LiftedTraining(net(), X, LABELS, rho=-1), ValueError, "positive finite"),
    (lambda: pl.LiftedTraining(net(), X, LABELS, weight_regulariser={"9.*": pl.L1Norm()}), ValueError, "matches no parameter"),
    (lambda: pl.LiftedTraining(net(), X, LABELS, activation_regulariser={7: pl.L1Norm()}), ValueError, "lifted layers are 1 to 2"),
    (lambda: pl.LiftedTraining(net().apply(lambda m: m.bias.data.fill_(torch.nan) if hasattr(m, "bias") else None), X, LABELS), ValueError,
     "'0.bias', '2.bias', '4.bias'. hold NaN"),
    (lambda: pl.LiftedTraining(net(), X, LABELS, validation=(X, LABELS, LABELS)), ValueError, "validation with 3 parts"),
    (lambda: pl.SAGA().solve(pl.LiftedTraining(net(), X, LABELS, frozen="*")), ValueError, "every parameter is frozen"),
    (lambda: pl.PIAG().solve(pl.LiftedTraining(net(), X, LABELS, frozen="*")), ValueError, "every parameter is frozen"),
    (lambda: pl.LiftedTraining("net", X, LABELS), TypeError, "torch.nn.Module"),
    (lambda: pl.LiftedTraining(net(), {}, LABELS), TypeError, "pass a tensor"),
    (lambda: pl.ISGM(step=-1), ValueError, "positive"),
    (lambda: pl.ISGM(epocs=3), TypeError, "epocs"),
    (lambda: pl.PGD(step=0), ValueError, "positive"),
    (lambda: pl.ISGM().solve(pl.Composite(pl.L2NormSquared(), start=X)), TypeError, "use PGD or BCD"),
    (lambda: pl.Composite(pl.L1Norm(), start=X), TypeError, "no gradient"),
    (lambda: pl.Composite(pl.L2NormSquared(), pl.L1Norm() + pl.L2Norm(), start=X), TypeError, "no prox"),
    (lambda: pl.LeakyReLU(1.5), ValueError, "0 < slope"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, text = BAD[case]
    with pytest.raises(error, match=text):
        call()


def test_products_in_bfloat16_keep_the_gradient():
    """Relative error of a few 2^-9, whatever the size of the residual, and the forward pass untouched."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(40, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
    x, y = torch.randn(128, 40), torch.randint(0, 5, (128,))
    full, half = (pl.LiftedTraining(network, x, y, products=kind, rho=1e3) for kind in (None, torch.bfloat16))
    (a, g), (b, h) = (p.explicit_gradient(p.start_theta()) for p in (full, half))
    assert a == b and all(0 < float((g[n] - h[n]).norm() / g[n].norm()) < 1e-2 for n in g if n.endswith("weight"))
    with pytest.raises(ValueError, match="torch.bfloat16 for a network in float32"):
        pl.LiftedTraining(network, x, y, products=torch.int8)


def test_a_problem_on_some_samples_is_a_problem_of_its_own():
    """Methods on all samples, on minibatches and in groups solve it from the initial parameters, or from the anchor."""
    problem = pl.LiftedTraining(mlp(nn.ReLU()), X, LABELS)
    few = problem.restrict(slice(0, 8))
    same = pl.LiftedTraining(mlp(nn.ReLU()), X[:8], LABELS[:8])
    for solver in (pl.PGD(2, step=0.1), pl.ISGM(2, 4), pl.SAGA(2, 4), pl.BCD(1, batch_size=4)):
        ours, theirs = solver.solve(few), solver.solve(same)
        assert ours.history["objective"] == theirs.history["objective"] and all(torch.equal(v, theirs.x[name]) for name, v in ours.x.items())
    anchor = {name: 2 * p for name, p in problem.start_theta().items()}
    moved = problem.restrict(slice(0, 8), anchor, 1.0).start_theta()
    assert all(torch.equal(v, anchor[name]) and v is not anchor[name] for name, v in moved.items())
    assert pl.LiftedTraining(convolutional(), torch.randn(6, 1, 8, 8, dtype=torch.float64), LABELS[:6]).restrict(slice(0, 4)).normalised and not few.normalised


@pytest.mark.parametrize("name", ["x1", "r12"])
def test_parameters_with_the_names_of_unknowns_are_refused(name):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp(nn.ReLU())
            setattr(self, name, nn.Parameter(torch.ones((), dtype=torch.float64)))

        def forward(self, x):
            return getattr(self, name) * self.body(x)

    with pytest.raises(ValueError, match=f"parameters named {name}, as the lifted unknowns are"):
        pl.LiftedTraining(Own(), X, LABELS)
    with pytest.raises(ValueError, match=f"parameters named {name}, as the lifted unknowns are"):
        pl.LiftedInversion(Own(), torch.zeros(2, 3, dtype=torch.float64), shape=5)
    assert pl.ISGM(1, 4).solve(pl.LiftedTraining(nn.Sequential(Own()), X, LABELS)).iterations == 1


def test_complex_layers_have_the_gradient_of_their_energy():
    """<Re conj(g), d> is the derivative along d, for every block; and every method lowers the energy."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.complex128, generator=g)
    torch.manual_seed(1)
    net = pl.networks.chain(nn.Linear(5, 6, dtype=torch.complex128), pl.SoftThreshold(0.1), nn.Linear(6, 3, dtype=torch.complex128))
    x, y = draw(8, 5), draw(8, 3)
    problem = pl.LiftedTraining(net, x, y, loss="squared_error", validation=(x[:4], y[:4]))
    point = {name: v + 0.1 * draw(*v.shape) for name, v in problem.start().items()}
    gradient = problem.gradient(point)
    for name, v in point.items():
        d, h = draw(*v.shape), 1e-6
        value = lambda t: problem.smooth_value({**point, name: v + t * d})
        assert float((gradient[name].conj() * d).real.sum()) == pytest.approx(float((value(h) - value(-h)) / (2 * h)), rel=1e-6), name
    for solver in (pl.PGD(20, step="backtracking"), pl.BCD(5), pl.ISGM(5, 4, 1e-2), pl.ISGM(5, 4, 1e-2, metric="adagrad"), pl.SVRG(5, 4, step=1e-2), pl.SAGA(5, 4, step=1e-2)):
        history = solver.solve(problem).history
        assert history["objective"][-1] < history["objective"][0] and history["validation_error"][-1] > 0, solver
