"""Every linear operator is found by introspection; one without an entry here fails."""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch

import paralift as pl

S = pl.Space((5, 6), torch.float64)
M = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) < 0.6
NUMBERS = M, MASK


def cases(device="cpu"):
    """{name: operator}, its numbers on the device."""
    S, M, MASK = pl.Space((5, 6), torch.float64, device), NUMBERS[0].to(device), NUMBERS[1].to(device)
    return {
        "IdentityOperator": pl.IdentityOperator(S),
        "MatrixOperator": pl.MatrixOperator(M),
        "DiagonalOperator": pl.DiagonalOperator(M),
        "Convolution": pl.Convolution(M[:3, :3], S),
        "Gradient": pl.Gradient(S),
        "SpacedGradient": pl.Gradient(pl.Space((2, 5, 6), torch.float64, device), axes=(2, -2), spacing=(0.5, 2.0)),
        "ZeroPaddedConvolution": pl.Convolution(M[:4, :3], S, padding="zero"),
        "HorizontalStack": pl.HorizontalStack(pl.Gradient(S).adjoint, pl.IdentityOperator(S)),
        "DiagonalStack": pl.DiagonalStack(pl.Gradient(S), pl.MatrixOperator(M)),
        "DirectionalGradient": pl.DirectionalGradient(S, M.new_tensor(range(30)).reshape(5, 6) ** 2, eta=3.0),
        "SymmetrisedGradient": pl.SymmetrisedGradient(pl.Space((3, 4, 3), torch.float64, device), spacing=(1.0, 0.5, 2.0)),
        "Wavelet": pl.Wavelet(pl.Space((8, 4), torch.float64, device), "db2", 2),
        "Casorati": pl.Casorati(pl.Space((3, 2, 4), torch.float64, device)),
        "Selection": pl.Selection(pl.ProductSpace(S, pl.Space((3,), torch.float64, device), S), (2, 0)),
        "JosephProjector": pl.JosephProjector(pl.Rays(4 * M[:, :2], 4 * M[:, 2:4]), (5, 6), (1.0, 0.7), dtype=torch.float64, device=device),
        "RayTransform": pl.RayTransform((5, 6), torch.arange(4) * 0.7, dtype=torch.float64, device=device),
        "GaussianBlur": pl.GaussianBlur(S, (2.0, 3.0), 1.5),
        "PET": pl.PET(pl.CylindricalScanner(18, 9.0, 7, block=9), (5, 6), 1.5, attenuation=0.01 * torch.ones(5, 6), resolution=2.0, dtype=torch.float64, device=device),
        "FourierTransform": pl.FourierTransform(pl.Space((5, 6), torch.complex128, device), MASK),
        "HadamardTransform": pl.HadamardTransform(pl.Space((4, 5, 32), torch.float64, device), axes=(0, -1)),
        "FilterBank": pl.FilterBank(M[:, :6].reshape(4, 2, 3), S),
        "VerticalStack": pl.VerticalStack(pl.Gradient(S), pl.IdentityOperator(S)),
        "MRI": pl.MRI(M[:, :5].abs(), torch.stack([M[:, :5], M[:, 2:]]).to(torch.complex128)),
        "NUFFT": pl.NUFFT(M[:, :2], (5, 4), dtype=torch.complex128),
        "ToeplitzOperator": pl.NUFFT(M[:, :2], (5, 4), dtype=torch.complex128).gram(M[:, 2].abs()),
    }


CASES = cases()
FOUND = sorted({"ZeroPaddedConvolution", "SpacedGradient"} | {name for module in pkgutil.iter_modules(pl.operators.__path__) for name, c in inspect.getmembers(
    importlib.import_module(f"paralift.operators.{module.name}"), inspect.isclass) if issubclass(c, pl.LinearOperator) and name[0] != "_" and c is not pl.LinearOperator})


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
    some = op.rows(slice(0, None, 2))
    pl.testing.check_operator(some)
    assert torch.allclose(some(basis), op(basis)[:, ::2])
    assert abs(op.norm(iterations=3000, tolerance=1e-12) - torch.linalg.matrix_norm(dense, 2)) < 1e-4


def test_complex_adjoints():
    C = torch.randn(4, 7, dtype=torch.complex128)
    for op in (pl.MatrixOperator(C), pl.DiagonalOperator(C), pl.Gradient(pl.Space((5, 6), torch.complex128)), 1j * pl.MatrixOperator(C)):
        pl.testing.check_operator(op)


@pytest.mark.parametrize("shape", [(7,), (5, 6), (4, 3, 6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_fourier_transform(shape, dtype):
    """Against numpy's, real and complex images, masks that are symmetric and masks that are not; A*A in one go, and |A| over the images there are."""
    import numpy as np

    g, space = torch.Generator().manual_seed(0), pl.Space(shape, dtype)
    mask = torch.rand(shape, generator=g) < 0.5
    for op in (pl.FourierTransform(space), pl.FourierTransform(space, mask)):
        pl.testing.check_operator(op)
        x = torch.randn(2, *shape, dtype=dtype, generator=g)
        axes = tuple(range(1, 1 + len(shape)))
        plain = np.fft.fftshift(np.fft.fftn(x.numpy(), axes=axes, norm="ortho"), axes=axes) * (1 if op.mask is None else mask.numpy())
        assert np.allclose(op(x).numpy(), plain) and torch.allclose(op.normal(x), op.adjoint(op(x)))
        assert torch.allclose(op._complement(x), x - op.adjoint(op(x)))
        f, u = pl.LeastSquares(op, op(x), weight=1.4), op._resolvent(x, 0.7)
        p = f.prox(-x, 0.5)
        assert torch.allclose(u + 0.7 * op.normal(u), x) and torch.allclose(p + x + 0.5 * f.gradient(p), torch.zeros_like(x), atol=1e-12)
        if op.real:
            half, expand = op.compact()
            pl.testing.check_operator(half)
            assert torch.allclose(expand(half(x)), op(x)) and torch.allclose(half.adjoint(half(x)), op.normal(x))
        assert op.unitary == (dtype.is_complex and op.mask is None)
        assert op.norm() == pytest.approx(pl.LinearOperator.norm(op), rel=1e-4)


@pytest.mark.parametrize("axes,orthonormal", [(None, True), ((0,), True), ((0, 1), False)])
def test_hadamard_transform(axes, orthonormal):
    """Against Sylvester's matrix of scipy, along the axes apart; its own inverse where orthonormal."""
    from scipy.linalg import hadamard

    x = torch.randn(3, 64, 2, dtype=torch.float64)
    op = pl.HadamardTransform(pl.Space((64, 2), torch.float64), axes, orthonormal)
    H, h = (torch.tensor(hadamard(n), dtype=torch.float64) for n in (64, 2))
    plain = H @ x if axes == (0,) else H @ x @ h
    assert torch.allclose(op(x), plain / ((64 if axes == (0,) else 128) ** 0.5 if orthonormal else 1))
    assert op.unitary == orthonormal and (not orthonormal or torch.allclose(op(op(x)), x))


def test_convolution_known_value():
    kernel = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)       # a shift by one
    x = torch.arange(4.0, dtype=torch.float64)
    assert torch.allclose(pl.Convolution(kernel, pl.Space((4,), torch.float64))(x), torch.roll(x, 1))


@pytest.mark.parametrize("padding", ["zero", "circular"])
@pytest.mark.parametrize("shape,lengths", [((7,), (4,)), ((6, 5), (3, 4)), ((4, 5, 6), (3, 1, 2)), ((3,), (3,))])
def test_convolution_against_the_sum(padding, shape, lengths):
    """Real and complex kernels in one, two and three dimensions, batch axes in front, against the sum written out by torch's own convolution."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=g)
    kernel = torch.randn(lengths, dtype=torch.float64, generator=g)
    d = len(shape)
    pads = [p for k in reversed(lengths) for p in (k - 1 - k // 2, k // 2)]
    padded = torch.nn.functional.pad(x.reshape(6, 1, *shape), pads, mode="constant" if padding == "zero" else "circular")
    expected = getattr(torch.nn.functional, f"conv{d}d")(padded, kernel.flip(tuple(range(d)))[None, None]).view_as(x)
    op = pl.Convolution(kernel, pl.Space(shape, torch.float64), padding=padding)
    assert torch.allclose(op(x), expected)
    pl.testing.check_operator(op)
    complex_op = pl.Convolution(torch.complex(kernel, kernel.flip(0)), pl.Space(shape, torch.complex128), padding=padding)
    pl.testing.check_operator(complex_op)
    assert torch.allclose(complex_op(x + 0j).real, expected)


def test_stacks_are_adjoint_to_each_other_and_split():
    A, B = pl.MatrixOperator(M), pl.MatrixOperator(M[:, :5])
    row, column = pl.HorizontalStack(A, B), pl.VerticalStack(A.adjoint, B.adjoint)
    a, b, y = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    assert torch.allclose(row(row.domain.join(a, b)), A(a) + B(b)) and torch.equal(row.adjoint(y), column(y))
    diagonal = pl.DiagonalStack(pl.Gradient(S), A)
    u = torch.randn(3, 5, 6, dtype=torch.float64)
    p, q = diagonal.range.split(diagonal(diagonal.domain.join(u, a)))
    assert torch.equal(p, pl.Gradient(S)(u)) and torch.equal(q, A(a))
    pl.testing.check_operator(row @ pl.DiagonalStack(pl.IdentityOperator(A.domain), pl.DiagonalOperator(M[0, :5])))


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


R = pl.Space((4,), torch.float64)
BAD = [
    (lambda: pl.Convolution(M, pl.Space((3, 3), torch.float64)), "no longer ones"),
    (lambda: pl.Convolution(M[0], S), "as many axes"),
    (lambda: pl.Convolution(M[:3, :3], S, padding="same"), "'circular' or 'zero'"),
    (lambda: pl.Convolution(M[:3, :3] + 0j, S), "a real one"),
    (lambda: pl.FourierTransform(S, MASK[:3]), "mask of shape"),
    (lambda: pl.FourierTransform(()), "without axes"),
    (lambda: pl.HadamardTransform(S), "power of two"),
    (lambda: pl.HadamardTransform((4, 4), axes=(2,)), "axes 0 to 1"),
    (lambda: pl.FilterBank(M, S), "it needs .m, a, b."),
    (lambda: pl.FilterBank(M[None].float()[:, :2, :2], S), "convert one"),
    (lambda: pl.HorizontalStack(), "at least one"),
    (lambda: pl.HorizontalStack(pl.MatrixOperator(M), pl.MatrixOperator(M[:3])), "ranges .* equal"),
    (lambda: pl.VerticalStack(pl.MatrixOperator(M), pl.MatrixOperator(M[:, :3])), "domains .* equal"),
    (lambda: pl.DiagonalStack(pl.from_module(torch.nn.Linear(3, 3), 3)), "LinearOperator"),
    (lambda: pl.DiagonalStack(pl.IdentityOperator(S), pl.IdentityOperator(pl.Space((2,)))), "one dtype"),
    (lambda: pl.Gradient(S, axes=(0, -2)), "different ones of -2 to 1"),
    (lambda: pl.Gradient(S, spacing=(1.0, 0.0)), "one for each axis"),
    (lambda: pl.ProductSpace(S, R).join(M), "trailing axes"),
    (lambda: pl.Selection(pl.ProductSpace(S, R), 2), "numbers of its parts"),
    (lambda: pl.ProductSpace(S, R).split(M), "last axis of 34"),
    (lambda: pl.HorizontalStack(pl.MatrixOperator(M), pl.MatrixOperator(M))(M), "trailing axes"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, text = BAD[case]
    with pytest.raises(ValueError, match=text):
        call()


def test_algebra_of_nonlinear_operators_is_nonlinear():
    A = pl.MatrixOperator(torch.randn(3, 4, dtype=torch.complex128))
    square = pl.ModuleOperator(torch.nn.Tanh(), pl.Space(3, torch.float64))
    B = pl.MatrixOperator(torch.randn(3, 4, dtype=torch.float64))
    for op, known in ((square @ B, False), (2 * square, False), (square + square, False), (B + B, True), (torch.tensor(2 + 1j) * A, True)):
        assert op.is_linear == known == isinstance(op, pl.LinearOperator)
        pl.testing.check_operator(op)


@pytest.mark.parametrize("call,error,text", [
    (lambda: pl.MatrixOperator(torch.tensor([[1.0, math.nan]])), ValueError, "matrix that holds NaN"),
    (lambda: pl.MatrixOperator(torch.tensor([[1.0, math.inf]])), ValueError, "NaN or inf"),
    (lambda: pl.MatrixOperator(torch.ones(2, 2, dtype=torch.int64)), TypeError, "floating-point"),
    (lambda: pl.DiagonalOperator(torch.tensor([math.nan])), ValueError, "weights that holds NaN"),
    (lambda: pl.Convolution(torch.tensor([1.0, math.nan]), pl.Space(4)), ValueError, "kernel that holds NaN")])
def test_bad_entries(call, error, text):
    with pytest.raises(error, match=text):
        call()
    assert torch.equal(pl.MatrixOperator([[1.0, 2.0]])(torch.ones(2)), torch.tensor([3.0]))          # what torch.as_tensor takes
