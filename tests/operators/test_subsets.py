"""A data term in subsets: the parts add up to the whole, their operators are its rows, their data the matching ones."""

import warnings

import pytest
import torch

import paralift as pl

T = torch.float64
G = torch.Generator().manual_seed(0)
A, b = torch.randn(24, 7, dtype=T, generator=G), torch.rand(24, dtype=T, generator=G)
TERMS = {
    "least squares": pl.LeastSquares(A, b, weight=3.0),
    "translated": 0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A),
    "multiple": 2.0 * (pl.Huber(0.3).translated(b) @ pl.MatrixOperator(A)),
    "counts": pl.KullbackLeibler(b.round()) @ pl.MatrixOperator(A.abs()),
    "labels": 0.1 * pl.LogisticLoss((b - 0.5).sign()) @ pl.MatrixOperator(A),
    "box": pl.IndicatorBox(-b - 9, b + 9) @ pl.MatrixOperator(A),
    "composed": pl.L1Norm().translated(b) @ (2.0 * pl.MatrixOperator(A) @ pl.DiagonalOperator(b[:7])),
    "complex": pl.L1Norm().translated(b * (1 + 1j)) @ pl.MatrixOperator(A * (1 - 2j)),
}


@pytest.mark.parametrize("parts", [1, 5, [slice(0, 3), torch.arange(3, 20), torch.tensor([23, 22, 20, 21])]], ids=["one", "five", "listed"])
@pytest.mark.parametrize("name", TERMS)
def test_parts_add_up_to_the_whole(name, parts):
    term = TERMS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = pl.subsets(term, parts)
    x = (torch.rand(7, dtype=T, generator=G) + 0.1).to(term.f.op.domain.dtype if name == "multiple" else term.op.domain.dtype)
    assert torch.allclose(sum(t(x) for t in split), term(x), atol=1e-12)
    whole = pl.Composite(None, None, term, start=x)
    H, K = whole.linear[0]
    y = K(x)
    rows = [slice(j, None, parts) for j in range(parts)] if isinstance(parts, int) else parts
    for (h, k), r in zip(pl.Composite(None, None, split, start=x).linear, rows):
        assert torch.allclose(k(x), y[r]) and torch.allclose(h.prox(y[r], 0.7), H.prox(y, 0.7)[r]) and torch.allclose(h._conj_prox(y[r], 0.7), H._conj_prox(y, 0.7)[r])
        pl.testing.check_operator(k)


class Views(pl.LinearOperator):
    """A volume (2, 3) to 6 views of (4, 5), without rows of its own."""

    def __init__(self):
        self.M = torch.randn(6 * 20, 6, dtype=T, generator=torch.Generator().manual_seed(1))
        super().__init__(pl.Space((2, 3), T), pl.Space((6, 4, 5), T))

    def _call(self, x):
        return (x.flatten(-2) @ self.M.T).unflatten(-1, (6, 4, 5))

    def _adjoint(self, y):
        return (y.flatten(-3) @ self.M).unflatten(-1, (2, 3))


class OwnViews(Views):
    def rows(self, index):
        new = OwnViews()
        new.M = self.M.unflatten(0, (6, 20))[index].flatten(0, 1)
        new._call = lambda x: (x.flatten(-2) @ new.M.T).unflatten(-1, (-1, 4, 5))
        new.range = pl.Space((len(new.M) // 20, 4, 5), T)
        return new


def test_operators_of_ones_own_are_split_by_views():
    op, data = Views(), torch.rand(6, 4, 5, dtype=T, generator=G)
    x = torch.rand(3, 2, 3, dtype=T, generator=G)
    with pytest.warns(UserWarning, match=r"all of its rows.*rows\(index\)"):
        split = pl.subsets(pl.L1Norm().translated(data) @ op, 3)
    with pytest.warns(UserWarning, match="all of its rows"):
        pl.subsets(pl.L1Norm().translated(data) @ (2.0 * op @ pl.IdentityOperator(op.domain)), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = pl.subsets(pl.L1Norm().translated(data) @ OwnViews(), 3)
    for j, (t, u) in enumerate(zip(split, own)):
        assert t.op.range.shape == (2, 4, 5) and torch.equal(t.op(x), op(x)[:, j::3]) and torch.allclose(u(x), t(x))
        pl.testing.check_operator(t.op)
    assert torch.allclose(sum(t(x) for t in split), (pl.L1Norm().translated(data) @ op)(x))


def test_sentences():
    term = TERMS["translated"]
    for wrong, words in ((0, "1 to 24"), (25, "1 to 24"), ([slice(0, 3)], "each of the 24 rows"), ([slice(0, 24), slice(0, 1)], "each of the 24 rows"),
                         ([slice(0, 24), slice(3, 3)], "each of the 24 rows")):
        with pytest.raises(ValueError, match=words):
            pl.subsets(term, wrong)
    for wrong, words in ((pl.L1Norm(), "it needs f @ A"), (pl.L2Norm() @ pl.MatrixOperator(A), "no sum over coordinates")):
        with pytest.raises(TypeError, match=words):
            pl.subsets(wrong, 2)
