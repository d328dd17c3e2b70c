"""Every linear operator is found by introspection; one without an entry here fails."""

import inspect

import pytest
import torch

import paralift as pl
from paralift.operators import linear

S = pl.Space((5, 6), torch.float64)
M = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CASES = {
    "IdentityOperator": pl.IdentityOperator(S),
    "MatrixOperator": pl.MatrixOperator(M),
    "DiagonalOperator": pl.DiagonalOperator(M),
    "Convolution": pl.Convolution(M[:3, :3], S),
    "Gradient": pl.Gradient(S),
    "VerticalStack": pl.VerticalStack(pl.Gradient(S), pl.IdentityOperator(S)),
}
FOUND = [n for n, c in inspect.getmembers(linear, inspect.isclass) if issubclass(c, pl.LinearOperator) and c.__module__ == linear.__name__]


@pytest.mark.parametrize("name", FOUND)
def test_operator(name):
    assert name in CASES, f"{name} has no entry in CASES"
    op = CASES[name]
    pl.testing.check_operator(op)
    pl.testing.check_operator(op.adjoint)
    pl.testing.check_operator(2.5 * op + op)
    pl.testing.check_operator(op.adjoint @ op)
    basis = torch.eye(op.domain.size, dtype=torch.float64).reshape(-1, *op.domain.shape)
    dense = op(basis).reshape(op.domain.size, -1)
    assert abs(op.norm(iterations=3000, tolerance=1e-12) - torch.linalg.matrix_norm(dense, 2)) < 1e-4


def test_complex_adjoints():
    C = torch.randn(4, 7, dtype=torch.complex128)
    for op in (pl.MatrixOperator(C), pl.DiagonalOperator(C), pl.Gradient(pl.Space((5, 6), torch.complex128)), 1j * pl.MatrixOperator(C)):
        pl.testing.check_operator(op)


def test_convolution_known_value():
    kernel = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)       # a shift by one
    x = torch.arange(4.0, dtype=torch.float64)
    assert torch.allclose(pl.Convolution(kernel, pl.Space((4,), torch.float64))(x), torch.roll(x, 1))


def test_nonlinear_operator_has_a_local_derivative():
    class Square(pl.Operator):
        def _call(self, x):
            return x * x

    op = Square(S, S)
    pl.testing.check_operator(op)
    pl.testing.check_operator(pl.Gradient(S) @ op)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="does not fit"):
        pl.MatrixOperator(M) @ pl.Gradient(S)
    with pytest.raises(TypeError, match="on the left"):
        pl.MatrixOperator(M) * 2
    with pytest.raises(ValueError, match="trailing axes"):
        pl.MatrixOperator(M)(torch.zeros(3, dtype=torch.float64))
