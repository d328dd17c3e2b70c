"""Imaging's regularisers: split into terms f @ K, wavelets, total variation and its relatives, against independent formulas."""

import pytest
import torch

import paralift as pl

torch.manual_seed(0)
S = pl.Space((6, 5), torch.float64)
x = torch.randn(3, 6, 5, dtype=torch.float64)


def whole(terms, x):
    return sum(t(x) for t in terms)


SPLITS = {
    "scaled": 0.3 * pl.TotalVariation(),
    "anisotropic": pl.TotalVariation(isotropic=False),
    "sum": 0.3 * pl.TotalVariation() + 0.2 * pl.L1Norm(),
    "translated": pl.TotalVariation().translated(x[0]),
    "composed": pl.TotalVariation() @ pl.DiagonalOperator(x[1]),
    "prox_only": 2.0 * pl.NuclearNorm(),
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_terms_sum_to_the_functional(name):
    f = SPLITS[name].on(S) if name != "composed" else SPLITS[name]
    terms = f.split(S)
    assert f.auxiliary(S) == () and all(t.f.has_prox and t.op.is_linear for t in terms)
    assert torch.allclose(whole(terms, x), f(x))
    pl.Composite(linear=terms, start=S.zero())


def test_without_a_prox_there_are_no_terms():
    class Quartic(pl.Functional):
        def _value(self, x):
            return self._sum(x**4)

    with pytest.raises(TypeError, match="has no prox"):
        Quartic().split((30,))
    with pytest.raises(TypeError, match="not linear"):
        (pl.L1Norm() @ pl.ModuleOperator(torch.nn.Tanh(), pl.Space(3))).split((3,))


def test_identity_composes_away():
    D = pl.Gradient(S)
    assert (pl.IdentityOperator(D.range) @ D) is D and pl.IdentityOperator(S).norm() == 1.0
    pl.testing.check_functional(0.7 * pl.L1Norm() @ pl.IdentityOperator(S))
