import copy

import pytest
import torch
from torch import nn

import paralift as pl


def nets():
    torch.manual_seed(0)
    return {
        "linear": (nn.Linear(5, 4), (5,)),
        "tokens": (nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 4), nn.GELU()), (3, 5)),
        "convolution": (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)), (2, 4, 4)),
        "transposed": (nn.ConvTranspose1d(2, 3, 3, stride=2), (2, 5)),
        "evaluated": (nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval(), (2, 6)),
        "dropout": (nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Softplus()), (5,)),
        "attention": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0), (3, 4)),
    }


@pytest.mark.parametrize("name", nets())
def test_derivatives(name):
    module, shape = nets()[name]
    op = pl.from_module(module.double(), shape)
    if name != "dropout":                                         # its mask belongs to the whole batch
        pl.testing.check_operator(op)
    x = op.domain.randn(2, 3)
    y, theta = op(x), op.parameters
    assert y.shape == (2, 3, *op.range.shape) and not y.requires_grad and torch.equal(op(x), y)
    J, g = op.parameter_derivative(x), torch.Generator().manual_seed(0)
    d = {k: torch.randn(p.shape, dtype=p.dtype, generator=g) for k, p in theta.items()}
    r = torch.randn(y.shape, dtype=y.dtype, generator=g)
    back = J.adjoint(r)
    left, right = (J(d) * r).sum(), sum((back[k] * d[k]).sum() for k in d)
    assert abs(left - right) < 1e-10 * J(d).norm() * r.norm()
    h, other = 1e-6, copy.deepcopy(module)

    def moved(t):
        other.load_state_dict({**module.state_dict(), **{k: p + t * d[k] for k, p in theta.items()}})
        return pl.from_module(other, shape)(x)

    fd = (moved(h) - moved(-h)) / (2 * h)
    assert (fd - J(d)).norm() < 1e-6 * fd.norm()
    first = next(iter(d))
    assert torch.allclose(J({first: d[first]}), J({k: v if k == first else torch.zeros_like(v) for k, v in d.items()}))


def test_batch_normalisation_couples_the_batch_and_keeps_its_statistics():
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    op, before = pl.from_module(module, 5), copy.deepcopy(module.state_dict())
    x, dx, y = op.domain.randn(7), op.domain.randn(7), op.range.randn(7)
    D = op.derivative(x)
    assert abs((D(dx) * y).sum() - (dx * D.adjoint(y)).sum()) < 1e-12
    op.parameter_derivative(x).adjoint(y)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    expected = copy.deepcopy(module)(x)
    assert torch.allclose(op(x), expected)


def test_integer_inputs_and_composition():
    torch.manual_seed(0)
    op = pl.from_module(nn.Embedding(6, 3).double(), pl.Space((4,), torch.int64))
    words = torch.randint(6, (2, 4))
    J, r = op.parameter_derivative(words), torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.allclose(J.adjoint(r)["weight"], torch.zeros(6, 3, dtype=torch.float64).index_add_(0, words.flatten(), r.view(-1, 3)))
    with pytest.raises(TypeError, match="parameter_derivative"):
        op.derivative(words)
    smooth = pl.from_module(nn.Sequential(nn.Linear(7, 5), nn.Tanh()).double(), 7)
    pl.testing.check_operator(pl.MatrixOperator(torch.randn(3, 5, dtype=torch.float64)) @ smooth)
    f = pl.L2NormSquared() @ smooth
    pl.testing.check_functional(f)


@pytest.mark.parametrize("call,error,text", [
    (lambda: pl.from_module("net", 3), TypeError, "torch.nn.Module"),
    (lambda: pl.from_module(nn.Linear(3, 2), 4), ValueError, "refused an input of shape .2, 4."),
    (lambda: pl.from_module(nn.Linear(3, 2), 3)(torch.zeros(4)), ValueError, "trailing axes"),
    (lambda: pl.from_module(nn.Linear(3, 2), 3).parameter_derivative(torch.zeros(4)), ValueError, "trailing axes"),
    (lambda: pl.from_module(nn.Linear(3, 2), 3).parameter_derivative(torch.zeros(3))({"w": torch.zeros(2, 3)}), ValueError, "directions for .'w'."),
    (lambda: pl.from_module(nn.Linear(3, 2), 3).parameter_derivative(torch.zeros(3))({"weight": torch.zeros(3)}), ValueError, "the parameters are"),
])
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
