"""Any torch module as a graph of stages: what is cut where, and that the lifted problem of the graph is the network's."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import paralift as pl

torch.manual_seed(0)
LABELS = torch.arange(12) % 3
IMAGES = torch.randn(12, 2, 8, 8, dtype=torch.float64)
WORDS = torch.randint(11, (12, 6))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)
        self.conv2, self.norm2 = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)

    def forward(self, x):
        return torch.relu(x + self.norm2(self.conv2(F.relu_(self.norm1(self.conv1(x))))))


class Residual(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem, self.blocks, self.dropout, self.head = nn.Conv2d(2, 4, 3), nn.ModuleList([Block(4), Block(4)]), nn.Dropout(dropout), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(x.mean((2, 3))).view(x.size(0), -1))


class Attention(nn.Module):
    """Causal, its softmax in the open; the embedding is also the output layer."""

    def __init__(self, act=torch.relu):
        super().__init__()
        self.embed, self.norm, self.qkv, self.out = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.act = nn.Linear(8, 16), nn.Linear(16, 8), act

    def forward(self, tokens):
        h = self.embed(tokens)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        mask = torch.ones(tokens.size(1), tokens.size(1), dtype=torch.bool).tril()
        scores = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~mask, float("-inf"))
        h = h + self.out(F.softmax(scores, dim=-1) @ v)
        h = h + self.down(self.act(self.up(h)))
        return h @ self.embed.weight.T


class Nested(nn.Module):
    """A skip over everything, a potential of ours inside, a clamp, a value used far away."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.shrink = nn.Linear(128, 10), nn.Linear(10, 10), nn.Linear(10, 3), pl.networks.chain(pl.SoftThreshold(0.2))

    def forward(self, x):
        h = self.a(x.flatten(1))
        u = self.shrink(h)
        return self.c(torch.clamp(self.b(u) + h, -1, 1)) + x.mean((1, 2, 3)).unsqueeze(1)


NETWORKS = {"residual": (lambda: Residual(), IMAGES, LABELS), "attention": (lambda: Attention(), WORDS, WORDS), "nested": (lambda: Nested(), IMAGES, LABELS)}


def problem_of(name, **options):
    make, inputs, targets = NETWORKS[name]
    torch.manual_seed(1)
    return pl.LiftedTraining(make().double(), inputs, targets, **options)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("penalty", ["bregman", "lifted"])
def test_gradients_of_the_lifted_objective(name, penalty):
    pl.testing.check_problem(problem_of(name, penalty=penalty))


@pytest.mark.parametrize("name", NETWORKS)
def test_consistent_points_are_the_network_and_one_sweep_tends_to_back_propagation(name):
    problem = problem_of(name, rho=1e7)
    network, inputs, targets = copy.deepcopy(problem.network), problem.inputs, problem.targets
    loss, gradient = problem.explicit_gradient(problem.start_theta())
    reference = F.cross_entropy(network(inputs).flatten(0, -2), targets.flatten(), reduction="sum") / len(inputs)
    reference.backward()
    assert abs(float(loss) - float(reference.detach())) < 1e-12 * float(loss)
    total = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
    for key, p in network.named_parameters():
        assert (gradient[key] - p.grad).norm() < 1e-5 * p.grad.norm() + 1e-9 * total, key
    assert all(torch.equal(b, c) for b, c in zip(problem.network.buffers(), network.buffers()))                 # running statistics move as in torch, the counter too
    assert abs(float(problem.value(problem.start())) - float(loss)) < 1e-7 * float(loss)


@pytest.mark.parametrize("name", NETWORKS)
def test_solvers_train_it(name):
    problem = problem_of(name)
    for solver in (pl.ISGM(12, batch_size=4, step=1e-2), pl.ISGM(10, batch_size=6, sweeps=2, metric="plain", step=0.1), pl.BCD(5), pl.SVRG(8, batch_size=4, step=0.01)):
        result = solver.solve(problem)
        assert result.history["objective"][-1] < result.history["objective"][0], solver
        assert set(result.network.state_dict()) == set(NETWORKS[name][0]().state_dict())
    with pytest.raises(TypeError, match="SVRG, which needs no table"):
        pl.SAGA(1).solve(problem)


def test_implicit_sweeps_lower_the_energy_on_a_graph():
    problem = problem_of("nested")
    sub = problem.restrict(slice(0, 12), problem.start_theta(), tau=10.0)
    values = [float(sub.value(sub.forward(sub.anchor))), *(float(sub.implicit_energy(sub.anchor, 10.0, k)) for k in (1, 2, 4, 8))]
    assert all(b <= a + 1e-12 for a, b in zip(values, values[1:])) and values[-1] < 0.95 * values[0]


def test_where_stages_end():
    parents = lambda stages: [s.parents for s in stages]
    potentials = lambda stages: [s.penalty and type(s.penalty.potential).__name__ for s in stages]
    residual = pl.lift(Residual(), IMAGES.float())
    assert parents(residual) == [(0,), (1,), (1, 2), (3,), (3, 4), (5,)] and potentials(residual) == ["Identity", "ReLU", "ReLU", "ReLU", "ReLU", None]
    attention = pl.lift(Attention(), WORDS)
    assert potentials(attention) == ["Identity", "Identity", "Softmax", "Identity", "ReLU", None] and parents(attention)[3] == (1, 2, 3)
    assert [s.index for s in attention if "embed.weight" in s.theta] == [1, 6]                                   # tied: both stages contribute
    nested = pl.lift(Nested(), IMAGES.float())
    assert potentials(nested) == ["Identity", "SoftThreshold", "Clip", None] and parents(nested) == [(0,), (1,), (1, 2), (0, 3)]
    assert len(pl.lift(Residual(), IMAGES.float(), "block")) == 3 and len(pl.lift(Residual(), IMAGES.float(), ["stem", "blocks.0"])) == 3
    assert "conv2d, batch_norm, add" in repr(residual) and residual[1].label == "blocks.0"


def test_every_activation_call_is_known():
    """Each activation that torch.nn.functional offers ends a stage, with the potential of its module or with MAC."""
    calls = {F.relu: "ReLU", F.relu6: "ReLU6", F.leaky_relu: "LeakyReLU", F.hardtanh: "Clip", torch.tanh: "Tanh", torch.sigmoid: "Sigmoid", F.softplus: "Softplus",
             F.elu: "ELU", F.celu: "CELU", F.softshrink: "SoftThreshold", F.gelu: "MAC", F.silu: "MAC", F.mish: "MAC", F.hardswish: "MAC", F.selu: "Fenchel",
             lambda x: F.softmax(x, 1): "Softmax", lambda x: x.clamp(min=0): "ReLU", lambda x: F.elu(x, 2.0): "MAC"}
    for call, expected in calls.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stages = pl.lift(Attention(call), WORDS)
        found = stages[4].penalty
        assert expected in (type(found).__name__, type(found.potential).__name__), (expected, found)
        z = torch.randn(3, 6, 16)
        assert torch.allclose(found.on((6, 16)).activation(z), call(z), atol=1e-6), expected


def test_no_graph_spans_two_stages_and_no_activation_with_a_potential_is_differentiated():
    from torch.profiler import ProfilerActivity, profile

    problem = problem_of("residual")
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        problem.explicit_gradient(problem.start_theta())
    names = {event.key: event.count for event in trace.key_averages()}
    assert names["aten::relu"] if "aten::relu" in names else names["aten::clamp"] >= 4
    assert not any("ThresholdBackward" in n or "ReluBackward" in n or "threshold_backward" in n for n in names)
    for stage in problem.stages:
        x = problem._input(stage, problem.start())
        z, pull = stage.evaluate(x, problem.start_theta())
        assert not z.requires_grad and (stage.penalty is None or z.grad_fn is None)


def test_penalties_by_place():
    problem = problem_of("residual", penalty={"blocks.1*": pl.MAC(), "blocks.0*": pl.Lifted, "*": "bregman"})
    assert [type(s.penalty).__name__ for s in problem.stages] == ["LiftedBregman", "Lifted", "Lifted", "MAC", "MAC", "NoneType"]
    pl.testing.check_problem(problem)
    with pytest.raises(ValueError, match=r"\['layer9.\*'\] match no lifted layer"):
        problem_of("residual", penalty={"layer9.*": "mac", "*": "bregman"})


def test_dropout_is_drawn_once_a_subproblem():
    torch.manual_seed(0)
    problem = pl.LiftedTraining(Residual(dropout=0.5).double(), IMAGES, LABELS)
    assert [s.random for s in problem.stages] == [False] * 5 + [True]
    theta = problem.start_theta()
    a, b, c = (problem.restrict(slice(0, 12), theta, 1.0, seed=s) for s in (1, 1, 2))
    assert float(a.loss_at(theta)) == float(b.loss_at(theta)) != float(c.loss_at(theta))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(128, 3)

    def forward(self, x):
        z = self.layer(x.flatten(1))
        return z if z.sum() > 0 else 2 * z


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(128, 3)

    def forward(self, x):
        return self.layer(x.flatten(1)), x


@pytest.mark.parametrize("call,error,text", [
    (lambda: pl.lift(Branching(), IMAGES.float()), ValueError, r"Branching cannot be exported.*line \d+ of test_lift.py, in forward.*networks.chain"),
    (lambda: pl.lift(Two(), IMAGES.float()), ValueError, "returns 2 values"),
    (lambda: pl.lift(Residual(), IMAGES.float(), ["layer7"]), ValueError, r"\['layer7'\].* match no submodule"),
    (lambda: pl.lift(Nested(), IMAGES.float(), "block"), ValueError, "no ModuleList or Sequential of blocks"),
    (lambda: pl.lift(Residual(), [1, 2]), TypeError, "holds data"),
    (lambda: pl.lift(Residual(), IMAGES[:1].float()), ValueError, "at least 2"),
    (lambda: pl.lift("residual", IMAGES), TypeError, "torch.nn.Module"),
])
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_stages_by_hand():
    """A graph that torch.export refuses, given stage by stage: the network's own output, and refusals."""
    network, x = pl.networks.Staged.example()
    stages = pl.lift(network, x)
    assert [s.parents for s in stages] == [(0,), (1,), (1, 2), (3, 1), (4,)] and "Softmax" in repr(stages)
    problem = pl.LiftedTraining(network, x, torch.tensor([0, 1, 2, 0]))
    last = problem.stages[-1]
    point = problem.start()
    assert torch.allclose(last.forward(point["x4"], point), network(x)) and set(problem.theta_names) == {name for name, _ in network.named_parameters()}
    linear = nn.Linear(3, 3)
    tied = pl.LiftedTraining(pl.networks.Staged([(linear, pl.ReLU()), (linear, pl.ReLU()), linear]), torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert len(tied.theta_names) >= 2 and pl.ISGM(3, 2).solve(tied).success
    for call, error, words in ((lambda: pl.networks.Staged([(linear, None, 1)]), ValueError, "no cycle"), (lambda: pl.networks.Staged([]), ValueError, "no stages"),
                               (lambda: pl.networks.Staged([linear, (linear, None, 0)]), ValueError, "nobody uses"),
                               (lambda: pl.networks.Staged([(torch.relu,)]), TypeError, "stage 1")):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("make", [lambda: pl.networks.CausalTransformer.example(), lambda: pl.networks.VisionTransformer.example()])
def test_samples_come_first_in_every_x(make):
    """Queries, keys and values are lifted before they are taken apart, not with the axis of the three in front; so x can be cut by samples."""
    network, x = make()
    x = torch.cat([x, x])
    p = pl.LiftedTraining(network, x, torch.zeros(len(x), *network(x).shape[1:]), loss="squared_error")
    point = p.start()
    assert all(len(point[f"x{s.index}"]) == len(x) for s in p.stages[:-1])
    few = p.restrict(slice(1, 4)).forward(p.start_theta())
    assert all(torch.allclose(v, point[name][1:4], atol=1e-5) for name, v in few.items() if name not in p.initial)


def test_stages_take_unknowns_of_any_layout():
    """Those of an unrolled network come out of a convolution with other strides than a file or a message gives; torch.export leaves out copies that the example does without."""
    torch.manual_seed(0)
    A = pl.MRI(mask=pl.variable_density_mask((16, 16), 3.0, calibration=4, seed=0), coil_maps=pl.data.phantom((16, 16), coils=3)[1])
    data = torch.randn(4, 16, 16, dtype=torch.complex64)
    problem = pl.LiftedTraining(pl.networks.UnrolledNetwork(A, 2, 4, threshold=0.02), data, data, loss="squared_error", rho=10.0)
    point = problem.start()
    dense = {name: v.contiguous() for name, v in point.items()}
    assert any(v.stride() != dense[name].stride() for name, v in point.items())
    value, other = problem.linearise(point), problem.linearise(dense)
    assert torch.allclose(value.value, other.value) and all(torch.allclose(g, other.gradient[name], atol=1e-5) for name, g in value.gradient.items())
    alone = pl.ISGM(1, 2, 1e-3, metric="plain").solve(problem)
    shared = pl.ISGM(1, 2, 1e-3, metric="plain").solve(problem, workers=pl.Workers(data=1, layers=2, schedule=pl.distributed.Flushed(2)))
    assert all(torch.allclose(v, shared.x[name], rtol=1e-4, atol=1e-6) for name, v in alone.x.items())
