"""Whether a lifted inversion is jointly convex in all its unknowns, and the linear part of a stage."""

from dataclasses import dataclass

import torch
from torch import nn

from ..operators.operator import LinearOperator
from ..operators.penalties import MAC, Fenchel, Lifted
from ..operators.space import Space
from .losses import FunctionalLoss, PenaltyLoss, SquaredError

__all__ = ["Convexity", "AffinePart", "convexity", "is_affine"]

LARGEST = 3000                   # unknowns of a sample up to which the certificate is a full eigenvalue problem


class AffinePart(LinearOperator):
    """x -> A(x) - A(0) of an affine stage with the parameters `theta`; `offset` is A(0)."""

    def __init__(self, stage, theta, space):
        self.stage, self.theta = stage, theta
        self.offset = stage.forward(space.zero(1), theta)[0]
        parts = list(stage.module) if isinstance(stage.module, nn.Sequential) else [stage.module]
        flat = [type(m) for m in parts] in ([nn.Linear], [nn.Flatten, nn.Linear]) and parts[-1].in_features == space.size and not space.dtype.is_complex
        self.matrix = theta[next(name for name, inside in stage.theta.items() if inside.endswith("weight"))] if flat else None
        super().__init__(space, Space(tuple(self.offset.shape), space.dtype, space.device))

    def _call(self, x):
        if self.matrix is not None:
            x = x.flatten(x.dim() - self.domain.ndim)
            return torch.mv(self.matrix, x) if x.dim() == 1 else x @ self.matrix.T
        return (self.stage.forward(x.reshape(-1, *self.domain.shape), self.theta) - self.offset).reshape(*x.shape[:x.dim() - self.domain.ndim], *self.range.shape)

    def _adjoint(self, y):
        if self.matrix is not None:
            return (y @ self.matrix).unflatten(-1, self.domain.shape)
        r = y.reshape(-1, *self.range.shape)
        gx, _ = self.stage.evaluate(self.domain.zero(len(r)), self.theta, wrt_theta=False)[1](r)
        return gx.reshape(*y.shape[:y.dim() - self.range.ndim], *self.domain.shape)


def is_affine(stage, point):
    """Whether A(x) is affine in its inputs together: A(u + v) = A(u) + A(v) - A(0) at random u, v, of size 1 and large ones, whose way passes far kinks."""
    g = torch.Generator().manual_seed(0)
    act = lambda xs: stage.forward(xs[0] if len(xs) == 1 else tuple(xs), point)
    for scale in (1.0, 1e4):
        values = lambda p: scale * torch.randn(2, *point[f"x{p}"].shape[1:], dtype=torch.float64, generator=g).to(point[f"x{p}"])
        u, v = ([values(p) for p in stage.parents] for _ in range(2))
        left, right = act([a + b for a, b in zip(u, v)]), act(u) + act(v) - act([torch.zeros_like(a) for a in u])
        if not (left - right).norm() <= 1e3 * torch.finfo(left.dtype).eps * (1 + left.norm() + right.norm()):
            return False
    return True


@dataclass
class Convexity:
    """Certificate of joint convexity: E minus convex functionals is a quadratic form <x, Q x> / 2 for each sample, so that Q >= 0 makes E convex,

        <x, Q x> = sum_l rho_l ( a_l |x_l|^2 + c_l |A_l x|^2 - 2 <x_l, A_l x> ) + c_L |A_L x|^2,    a_l, c_l the strong convexity of phi_l, phi_l* and c_L that of the data term.

    For the residual network u_k = u_{k-1} + W_k^T sigma(W_k u_{k-1} + b_k), <z, W u> = <M u, u> where (M u)_k = u_k - u_{k-1} = W_k^T z_k, and Q >= 0 follows from the condition of
    Wang & Benning (2023), lambda K*K - M - M* - I/rho >= 0, which leaves |z|^2 out; with exact constraints (rho = inf) that holds for lambda >= L/(L + 1).
    The condition is sufficient: where it fails, E may be convex or not.
    """

    smallest: float              # eigenvalue of Q
    unknowns: int                # of a sample
    exact: bool                  # from all eigenvalues; else by Lanczos' method, which finds extreme ones in practice but proves Q >= 0 never
    tolerance: float             # rounding: 0 counts as >= 0

    @property
    def holds(self) -> bool:
        return self.exact and self.smallest >= -self.tolerance

    def __bool__(self):
        return self.holds

    def __repr__(self):
        failed = self.smallest < -self.tolerance
        verdict = "jointly convex" if self.holds else "not certified, a sufficient condition fails" if failed else "no negative eigenvalue found, not proved"
        how = "all eigenvalues" if self.exact else "Lanczos"
        return f"{verdict}: smallest eigenvalue of Q {self.smallest:.6g}, {self.unknowns} unknowns a sample, {how}"


def _moduli(penalty):
    """(a, c) of a penalty P(x, z) = phi(x) + phi*(z) - <x, z>."""
    if isinstance(penalty, MAC):
        raise TypeError(f"the convexity of {penalty!r} was asked for, which is not convex in z; use penalty='bregman'.")
    if isinstance(penalty, Fenchel) and penalty.map is not None:
        return 1 / penalty.lipschitz_z, 0.0
    if isinstance(penalty, Lifted):
        return 1.0, 1.0
    psi = penalty.potential
    return 1.0 + psi.strong_convexity, 1 / (1 + psi.grad_lipschitz)


def _data_modulus(loss):
    if isinstance(loss, PenaltyLoss):
        return _moduli(loss.penalty)[1]
    return 1.0 if isinstance(loss, SquaredError) else loss.functional.strong_convexity if isinstance(loss, FunctionalLoss) else 0.0


def convexity(problem):
    """The `Convexity` of a `LiftedInversion`; TypeError where a stage is not affine in its inputs, or a penalty or the data term is not convex in z."""
    start = problem.restrict(slice(0, 1)).start()
    curved = [s.index for s in problem.stages if not is_affine(s, start)]
    if curved or not problem.loss.convex:
        what = f"stages {curved}, which are not affine in their inputs" if curved else f"{problem.loss!r}, which is not convex"
        raise TypeError(f"the convexity of a problem with {what} was asked for; the certificate is for affine stages between proximal activations and a convex data term.")
    moduli = {s.index: _moduli(s.penalty) for s in problem.stages[:-1]}
    names = [f"x{l}" for l in range(problem.depth)]
    sizes, dtype = [start[n].numel() for n in names], start["x0"].dtype
    prior = problem.prior.strong_convexity

    def apply(columns):
        """Q on rows of vectors (k, unknowns)."""
        k = len(columns)
        x = {n: v.reshape(k, *start[n].shape[1:]) for n, v in zip(names, columns.split(sizes, 1))}
        out = {n: torch.zeros_like(v) for n, v in x.items()}
        out["x0"] = prior * x["x0"]
        point = {**problem.initial, **x}
        for s in problem.stages:
            given = problem._input(s, point)
            zero = tuple(torch.zeros_like(v) for v in given) if isinstance(given, tuple) else torch.zeros_like(given)
            z, pull = s.evaluate(given, point, wrt_theta=False)
            z = z - s.forward(zero, point)
            if s.index < problem.depth:
                (a, c), rho, own = moduli[s.index], problem.rho[s.index], f"x{s.index}"
                out[own] = out[own] + rho * (a * x[own] - z)
                r = rho * (c * z - x[own])
            else:
                r = _data_modulus(problem.loss) * z
            for p, g in s.pairs(pull(r)[0]):
                out[f"x{p}"] = out[f"x{p}"] + g
        return torch.cat([out[n].flatten(1) for n in names], 1)

    n = sum(sizes)
    if n <= LARGEST:
        Q = apply(torch.eye(n, dtype=dtype, device=start["x0"].device)).double()
        values = torch.linalg.eigvalsh(0.5 * (Q + Q.T))
        return Convexity(float(values[0]), n, True, 10 * n * torch.finfo(dtype).eps * float(values.abs().max()))
    import scipy.sparse.linalg as sparse

    act = lambda v: apply(torch.as_tensor(v.reshape(1, -1), dtype=dtype, device=start["x0"].device))[0].double().cpu().numpy()
    Q = sparse.LinearOperator((n, n), matvec=act, dtype="float64")
    largest = float(abs(sparse.eigsh(Q, k=1, which="LM", tol=1e-3, return_eigenvectors=False)[0]))
    smallest = float(sparse.eigsh(Q, k=1, which="SA", tol=1e-6, return_eigenvectors=False)[0])
    return Convexity(smallest, n, False, 10 * n**0.5 * torch.finfo(dtype).eps * largest)
