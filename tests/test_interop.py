import sys

import numpy as np
import pytest
import torch

import paralift as pl

x = 2 * torch.randn(3, 7, dtype=torch.float64)


def test_odl():
    odl = pytest.importorskip("odl", reason="odl 1.0 needs Python 3.11")
    space = odl.rn(7)
    f = pl.from_odl(odl.functionals.L1Norm(space))
    assert torch.allclose(f(x), pl.L1Norm()(x)) and torch.allclose(f.prox(x, 0.3), pl.L1Norm().prox(x, 0.3))
    each = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)                          # a step for every sample
    assert torch.allclose(f.prox(x, each), pl.L1Norm().prox(x, each))
    with pytest.raises(ValueError, match="one for each sample"):
        f.prox(x, x.abs())
    pl.testing.check_functional(pl.from_odl(odl.functionals.L2NormSquared(odl.uniform_discr(0, 1, 7))))
    M = np.random.default_rng(0).normal(size=(4, 7))
    A = pl.from_odl(odl.MatrixOperator(M))
    pl.testing.check_operator(A)
    back = pl.to_odl(pl.L1Norm(pl.Space((7,), torch.float64)))
    assert abs(back(back.domain.element(x[0].numpy())) - float(x[0].abs().sum())) < 1e-12
    p = back.proximal(0.3)(back.domain.element(x[0].numpy()))
    assert np.allclose(p.data, pl.L1Norm().prox(x[0], 0.3).numpy())
    B = pl.to_odl(pl.MatrixOperator(torch.as_tensor(M)))
    assert np.allclose(B(space.element(x[0].numpy())).data, M @ x[0].numpy())
    assert np.allclose(B.adjoint(odl.rn(4).element(np.ones(4))).data, M.T @ np.ones(4))
    with pytest.raises(TypeError, match="needs an ODL"):
        pl.from_odl(3)


def test_without_odl(monkeypatch):
    monkeypatch.setitem(sys.modules, "odl", None)
    for door in (pl.from_odl, pl.to_odl):
        with pytest.raises(ImportError, match=f"{door.__name__} needs odl 1.0"):
            door(pl.L1Norm(7))


def test_pyproximal_and_pylops():
    import pyproximal

    for theirs, ours in ((pyproximal.L1(), pl.L1Norm()), (pyproximal.Box(-0.5, 1.0), pl.IndicatorBox(-0.5, 1.0))):
        f = pl.from_pyproximal(theirs, (7,))
        assert torch.allclose(f.prox(x, 0.4), ours.prox(x, 0.4))
        assert torch.allclose(f(ours.prox(x, 0.4)), ours(ours.prox(x, 0.4)))
        each = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)
        assert torch.allclose(f.prox(x, each), ours.prox(x, each))
    nuclear = pl.from_pyproximal(pyproximal.Nuclear((4, 5)), (4, 5))
    y = torch.randn(4, 5, dtype=torch.float64)
    assert torch.allclose(nuclear.prox(y, 0.4), pl.NuclearNorm().prox(y, 0.4))
    D = pl.to_pylops(pl.Gradient(pl.Space((4, 5), torch.float64)))
    u, w = np.random.default_rng(0).normal(size=20), np.random.default_rng(1).normal(size=40)
    assert abs(w @ D.matvec(u) - u @ D.rmatvec(w)) < 1e-12


def test_odl_operators_between_products_of_equal_spaces():
    """The range of a gradient, and a norm on it: against our own."""
    odl = pytest.importorskip("odl")
    space = odl.uniform_discr([0, 0], [6, 5], [6, 5])
    A, B = pl.from_odl(odl.Gradient(space, method="forward", pad_mode="symmetric")), pl.Gradient(pl.Space((6, 5), torch.float64))
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    assert A.range.shape == (2, 6, 5) and torch.allclose(A(x), B(x))
    pl.testing.check_operator(A)
    f, g, y = pl.from_odl(odl.functionals.GroupL1Norm(space**2)), pl.GroupL1Norm(space=(2, 6, 5)), A(x)
    assert torch.allclose(f(y), g(y)) and torch.allclose(f.prox(y, 0.4), g.prox(y, 0.4))
    with pytest.raises(ValueError, match="product of equal ones"):
        pl.from_odl(odl.ComponentProjection(odl.ProductSpace(odl.rn(2), odl.rn(3)), 0))


def test_results_lie_where_the_input_does():
    """New tensors would go to torch's default device where a door forgot to say which."""
    odl = pytest.importorskip("odl", reason="odl 1.0 needs Python 3.11")
    import pyproximal

    f, A, g = pl.from_odl(odl.functionals.L2NormSquared(odl.rn(7))), pl.from_odl(odl.MatrixOperator(np.eye(7))), pl.from_pyproximal(pyproximal.L1(), (7,))
    back, flat = pl.to_odl(pl.L1Norm(pl.Space((7,), torch.float64))), pl.to_pylops(pl.MatrixOperator(torch.eye(7, dtype=torch.float64)))
    with torch.device("meta"):
        found = [f(x), f.gradient(x), f.prox(x, 0.3), A(x), A.adjoint(x), g(x), g.prox(x, 0.3)]
        assert all(v.device.type == "cpu" for v in found)
        assert back(back.domain.element(x[0].numpy())) > 0 and np.allclose(flat.matvec(x[0].numpy()), x[0].numpy())
