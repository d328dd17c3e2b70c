"""Total variation, with a prox certified by its duality gap."""

from .norms import L1Norm
from .variation import _Variation

__all__ = ["TotalVariation"]


class TotalVariation(_Variation):
    """sum over pixels of |grad x| (isotropic) or |grad x|_1, forward differences, zero past the ends. Real and complex elements (moduli) of any dimension, vectorial ones too.

    Parameters
    ----------
    space : (h, w), (d, h, w), ...; without one the last two axes are the image (with `channel_axis`, the last three).
    isotropic : |grad x| = sqrt(sum_i |d_i x|^2); otherwise sum_i |d_i x|.
    channel_axis : the axis of colours, contrasts or echoes, which share their edges: |d_i x| is then sqrt(sum over them). None: there is none.
    axes : those to differentiate along; the others are slices or frames, each with its own total variation. By default all but the channels.
    spacing : grid width along each of the axes (mm); gradients are then per mm. A number or one for each.
    tolerance, max_iterations : of the prox, by an accelerated primal-dual iteration: it ends once the duality gap of |u - x|^2/2 + sigma TV(u) is at most
        tolerance * |x|^2/2, which bounds |u - prox|^2/2, for every sample, or after `max_iterations`.

    With other data terms `split(space)` = [GroupL1Norm() @ Gradient(space)] serves PDHG and ADMM. Raises ValueError for axes or spacings that do not fit.
    Sources: Rudin, Osher & Fatemi, Physica D 60, 1992; Chambolle & Pock, J. Math. Imaging Vis. 40, 2011 (Algorithm 2); vectorial: Bresson & Chan, Inverse Probl. Imaging 2, 2008.
    """

    positive_homogeneous = True

    def _norm(self):
        return super()._norm() if self._groups() else L1Norm()
