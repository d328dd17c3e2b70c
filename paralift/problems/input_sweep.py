"""The gradient in a network's input by an implicit backward sweep, part of `LiftedInversion`."""

import math

import torch
from torch import nn

from ..arguments import checked
from .problem import Point, check_point
from .sweeps import _joined

__all__ = ["InputSweep"]

LARGEST = 512                    # outputs of a stage whose implicit residual is solved for


class InputSweep:
    """Part of `LiftedInversion`: hidden x as a function of x_0, from the forward pass and one backward sweep.

    Stage by stage, backwards: x_l = argmin rho_l P_l(x_l, z_l) + <pull of the children, x_l>. A child c pulls by A_c* w_c, w_c its residual r_c = rho_c dP_c/dz or, where A_c is
    affine with at most 512 outputs in a row, what remains of it after the implicit step in x_l: w_c = (I + s_c/rho_l A_c A_c*)^-1 r_c where r_c != 0, s_c the slope of r_c in z_c,
    solved by the eigenvectors of A_c A_c*, once for all points. It weighs strong and weak singular directions of A_c more alike; rho -> inf gives back-propagation.
    """

    def _tied(self, l, tie):
        """rho_l times `tie`; the last activation, where it is lifted for the fidelity's sake, belongs to the data term."""
        last = self.stages[-1]
        return self.rho[l] if type(last.module) is nn.Identity and l in last.parents else self.rho[l] * tie

    def _spectrum(self, stage, point, z):
        """(eigenvalues, eigenvectors, the largest eigenvalue) of A A* of the stage, the first two None for I; None where they are not for use."""
        l = stage.index
        if l not in self._spectra:
            found = None
            if l in self._still and len(stage.parents) == 1 and stage.parents[0] and z.dim() == 2 and z.shape[1] <= LARGEST:
                if type(stage.module) is nn.Identity:
                    found = None, None, 1.0
                else:
                    x = point[f"x{stage.parents[0]}"]
                    offset, pull = stage.evaluate(x.new_zeros(z.shape[1], *x.shape[1:]), point, wrt_theta=False)
                    back = pull(torch.eye(z.shape[1], dtype=z.dtype, device=z.device))[0]
                    e, Q = torch.linalg.eigh(stage.forward(back, point) - offset)
                    found = e.clamp(min=0), Q, float(e[-1].clamp(min=0))
            self._spectra[l] = found
        return self._spectra[l]

    @checked
    def input_gradient(self, point: Point, tie: float = 1.0, weight: float = 1.0) -> torch.Tensor:
        """The gradient in x_0 of the samples' sum, the hidden rho times `tie` and R times `weight`; the hidden x of `point` are not used."""
        check_point("LiftedInversion.input_gradient", point, {"x0": self.inputs})
        values, kept, pulls, slope = {**self.initial, "x0": point["x0"]}, [], {}, self.loss.lipschitz
        for stage in self.stages:
            z, pull = self._evaluate(stage, values, (True,) * len(stage.parents), False)
            if stage.index < self.depth:
                values[f"x{stage.index}"] = stage.penalty.activation(z)
            kept.append((stage, z, pull))
        between = []                                              # stages since the slope was known
        for stage, z, pull in reversed(kept):
            l = stage.index
            if l == self.depth:
                r, w = self.loss.gradient(z, self.targets), 1.0
            else:
                r, w = stage.penalty._sweep(z, values[f"x{l}"], *pulls.pop(l), self._tied(l, tie))
            spectrum = self._spectrum(stage, values, z)
            slope = None if slope is None or l not in self._still or len(stage.parents) > 1 else slope
            if slope is None or spectrum is None:
                between.append(stage)
            else:
                slope, between = slope * math.prod(self._input_norm(s, values) for s in between), []
                (e, Q, top), ratio = spectrum, slope / self._tied(stage.parents[0], tie)
                r = r / (1 + ratio) if Q is None else ((r @ Q).div_(1 + ratio * e) @ Q.T).mul_(r != 0)
                slope = slope * top / (1 + ratio * top)
            for p, g in stage.pairs(pull(r)[0]):
                pulls[p] = (g, w) if p not in pulls else _joined(*pulls[p], g, w)
        g, w = pulls[0]
        g = g if w == 1 else w * g
        return g if self.explicit is None else g + weight * self.explicit._gradient(point["x0"])

    def input_value(self, point: Point) -> torch.Tensor:
        """E at the forward pass of x_0, where the hidden penalties vanish: the mean of D(z_L, y) + alpha R(x_0) + C(x_0)."""
        check_point("LiftedInversion.input_value", point, {"x0": self.inputs})
        values = self.forward({**self.initial, "x0": point["x0"]})
        last = self.stages[-1]
        value = self.loss.value(self._z(last, values), self.targets).sum() + self.prior(point["x0"]).sum()
        return (value if self.explicit is None else value + self.explicit(point["x0"]).sum()) / self.samples
