"""What a problem is made of: spaces, operators, functionals, potentials, Bregman distances and penalties."""

from .bregman import BregmanDistance, MoreauEnvelope
from .entropies import *  # noqa: F403
from .filter_bank import FilterBank
from .functional import Functional
from .indicators import *  # noqa: F403
from .joint_prox import JointProx
from .kernels import BurgKernel, EntropyKernel, EuclideanKernel
from .least_squares import LeastSquares
from .linear import *  # noqa: F403
from .module import ModuleOperator
from .norms import *  # noqa: F403
from .operator import LinearOperator, Operator
from .penalties import MAC, Fenchel, Lifted, LiftedBregman, Penalty
from .potentials import *  # noqa: F403
from .separable_sum import SeparableSum
from .smooth_potentials import *  # noqa: F403
from .space import Space
from .stacks import *  # noqa: F403
from .subsets import subsets
from .total_variation import TotalVariation
from .transforms import FourierTransform, HadamardTransform
