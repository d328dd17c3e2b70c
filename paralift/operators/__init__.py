"""What a problem is made of: spaces, operators, functionals, potentials, Bregman distances and penalties."""

from .entropies import *  # noqa: F403
from .functional import BregmanDistance, Functional, MoreauEnvelope
from .indicators import *  # noqa: F403
from .kernels import BurgKernel, EntropyKernel, EuclideanKernel
from .least_squares import LeastSquares
from .linear import *  # noqa: F403
from .norms import *  # noqa: F403
from .operator import LinearOperator, Operator
from .penalties import MAC, Fenchel, Lifted, LiftedBregman, Penalty
from .potentials import *  # noqa: F403
from .separable_sum import SeparableSum
from .space import Space
from .total_variation import TotalVariation
