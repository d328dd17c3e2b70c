"""Losses of the last layer: value per sample, gradient in z, slope bound."""

import torch

from ..arguments import checked
from ..operators.functional import Functional
from ..operators.penalties import MAC, LiftedBregman, Penalty
from ..operators.space import all_finite, inner, sum_trailing
from .stages import space_of

__all__ = ["Loss", "CrossEntropy", "SquaredError", "Logistic", "FunctionalLoss", "PenaltyLoss", "loss_from"]


class Loss:
    """loss(z, y), samples first: `value` (n,), `gradient` (as z), `lipschitz` of the gradient in z. `check(z, y)` raises ValueError or TypeError before work starts."""

    lipschitz: float = 1.0
    classifies: bool = False
    convex: bool = True               # in z

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        checked(cls)

    def value_and_gradient(self, z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.value(z, y), self.gradient(z, y)

    @checked
    def check(self, z: torch.Tensor, y: torch.Tensor) -> None:
        if y.shape != z.shape:
            raise ValueError(f"targets of shape {tuple(y.shape)} were given; the network's output has shape {tuple(z.shape)} and {type(self).__name__} needs the same.")
        if not all_finite(y):
            raise ValueError("the targets hold NaN or inf; remove or repair those samples.")


class CrossEntropy(Loss):
    """-log softmax(z)_y = B(e_y, z), the Bregman distance of the softmax potential; classes on the last axis.

    y: integer labels (n, ...); a sample's positions are summed, entries equal to `ignore_index` count 0 (the problem divides by the samples, torch by the labels that count).
    `label_smoothing` s mixes e_y with the uniform vector.
    """

    lipschitz = 0.5
    classifies = True

    def __init__(self, label_smoothing: float = 0.0, ignore_index: int = -100):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"CrossEntropy got label_smoothing = {label_smoothing}; it needs a number in [0, 1).")
        self.label_smoothing, self.ignore_index = float(label_smoothing), ignore_index

    @checked
    def check(self, z: torch.Tensor, y: torch.Tensor) -> None:
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise TypeError(f"labels of dtype {y.dtype} were given; cross entropy needs integer class numbers: pass labels.long().")
        if tuple(y.shape) != tuple(z.shape[:-1]):
            raise ValueError(f"labels of shape {tuple(y.shape)} were given; an output of shape {tuple(z.shape)} needs labels of shape {tuple(z.shape[:-1])}.")
        kept = y[y != self.ignore_index]
        if kept.numel() == 0:
            raise ValueError(f"every label equals ignore_index = {self.ignore_index}; at least one label must count.")
        if kept.min() < 0 or kept.max() >= z.shape[-1]:
            raise ValueError(f"labels from {kept.min()} to {kept.max()} were given; "
                             f"{z.shape[-1]} outputs need labels from 0 to {z.shape[-1] - 1}: widen the last layer or mend the labels.")

    def _classes(self, y):
        return y.masked_fill(y == self.ignore_index, 0)

    def _target(self, z, y):
        one_hot = torch.zeros_like(z).scatter_(-1, self._classes(y).unsqueeze(-1), 1 - self.label_smoothing)
        return one_hot.add_(self.label_smoothing / z.shape[-1]) if self.label_smoothing else one_hot

    def value(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        v = torch.nn.functional.cross_entropy(z.flatten(0, -2), y.flatten(), reduction="none", label_smoothing=self.label_smoothing,
                                              ignore_index=self.ignore_index).view(y.shape)
        return sum_trailing(v, v.dim() - 1)

    def value_and_gradient(self, z, y):
        if self.label_smoothing or z.dim() > 2 or self.ignore_index >= 0:
            return self.value(z, y), self.gradient(z, y)
        logp, index = torch.log_softmax(z, -1), self._classes(y).unsqueeze(-1)
        kept = (y != self.ignore_index).to(z.dtype)
        r = logp.exp()
        r.scatter_add_(-1, index, r.new_full((), -1.0).expand(len(y), 1))
        return -logp.gather(-1, index).squeeze(-1) * kept, r.mul_(kept.unsqueeze(-1))

    def gradient(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        r = torch.softmax(z, -1)
        if self.label_smoothing:
            r.sub_(self._target(z, y))
        else:
            r.scatter_add_(-1, self._classes(y).unsqueeze(-1), r.new_full((), -1.0).expand(*y.shape, 1))
        return r.mul_((y != self.ignore_index).unsqueeze(-1))


class SquaredError(Loss):
    """|z - y|^2 / 2, summed over a sample's axes."""

    def value(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * inner(z - y, z - y, z.dim() - 1)

    def gradient(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return z - y


class Logistic(Loss):
    """log(1 + exp(z)) - y z, labels y in {0, 1} of z's shape (ValueError for others): the Bregman distance of the sigmoid's potential; class 1 where z > 0."""

    lipschitz = 0.25

    @checked
    def check(self, z: torch.Tensor, y: torch.Tensor) -> None:
        super().check(z, y)
        if y.is_complex():
            raise TypeError(f"labels of dtype {y.dtype} were given; the logistic loss needs 0 and 1.")
        if not ((y == 0) | (y == 1)).all():
            raise ValueError(f"labels from {y.min()} to {y.max()} were given; the logistic loss needs 0 and 1: pass (labels > 0), or use cross_entropy for several classes.")

    def value(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return sum_trailing(torch.nn.functional.softplus(z) - y * z, z.dim() - 1)

    def gradient(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(z).sub_(y)


class FunctionalLoss(Loss):
    """f(z - y) of a functional f with a gradient, y of z's shape."""

    def __init__(self, functional: Functional):
        self.functional, self.lipschitz, self.convex = functional, functional.grad_lipschitz, functional.convex

    def value(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.functional.on(space_of(z))(z - y)

    def gradient(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.functional.on(space_of(z))._gradient(z - y)


class KullbackLeiblerLoss(Loss):
    """sum z - y + y log(y / z): Poisson data y >= 0, z > 0 (end the network with softplus). Raises ValueError where y < 0."""

    lipschitz = float("inf")

    @checked
    def check(self, z: torch.Tensor, y: torch.Tensor) -> None:
        super().check(z, y)
        if (y < 0).any():
            raise ValueError(f"targets down to {y.min()} were given; the Kullback-Leibler loss needs counts >= 0.")
        if (z < 0).any():
            raise ValueError(f"the network's output falls to {float(z.min()):.3g}; the Kullback-Leibler loss needs z > 0: end the network with torch.nn.Softplus.")

    def value(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        inside = z - y + torch.xlogy(y, y) - torch.xlogy(y, z)
        return sum_trailing(torch.where(z > 0, inside, torch.inf), z.dim() - 1)

    def gradient(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 1 - y / z


class PenaltyLoss(Loss):
    """P(y, z): the last layer is tied to the target by a penalty, as in Wang & Benning (2023); `gradient` needs no derivative of sigma."""

    def __init__(self, penalty: Penalty):
        self.penalty, self.lipschitz, self.convex = penalty, penalty.lipschitz_z, not isinstance(penalty, MAC)

    @checked
    def check(self, z: torch.Tensor, y: torch.Tensor) -> None:
        super().check(z, y)
        if not torch.isfinite(self.value(z, y)).all():
            raise ValueError(f"the targets lie outside the domain of {self.penalty.potential!r}; "
                             "this activation cannot reach them: rescale the targets or change the last activation.")

    def value(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.penalty(y, z)

    def gradient(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.penalty.gradient_z(y, z)


def loss_from(loss: str | Functional | Penalty | Loss, last_penalty: Penalty | None) -> Loss:
    """A Loss from a name, a Functional, a Penalty or a Loss."""
    from ..operators.norms import Huber

    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, Penalty):
        return PenaltyLoss(loss)
    if isinstance(loss, Functional):
        if not loss.differentiable:
            raise TypeError(f"loss={loss!r} was given, which has no gradient; smooth it with MoreauEnvelope(..., t), or choose 'huber'.")
        return FunctionalLoss(loss)
    if loss == "bregman":
        return PenaltyLoss(last_penalty if isinstance(last_penalty, LiftedBregman) else LiftedBregman(last_penalty.potential))
    makers = {"cross_entropy": CrossEntropy, "squared_error": SquaredError, "logistic": Logistic,
              "huber": lambda: FunctionalLoss(Huber(1.0)), "kullback_leibler": KullbackLeiblerLoss}
    if not isinstance(loss, str) or loss not in makers:
        raise ValueError(f"loss={loss!r} was given; choose one of {sorted([*makers, 'bregman'])}, a Functional, a Penalty or a Loss.")
    return makers[loss]()
