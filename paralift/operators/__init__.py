"""What a problem is made of: spaces, operators, functionals, potentials, Bregman distances and penalties."""

from .attenuation import hounsfield_to_attenuation
from .bregman import BregmanDistance, MoreauEnvelope
from .casorati import Casorati
from .coil_maps import *  # noqa: F403
from .directional_total_variation import *  # noqa: F403
from .dual_prox import DualProx
from .entropies import *  # noqa: F403
from .filter_bank import FilterBank
from .functional import Functional
from .gaussian_blur import GaussianBlur
from .geometry import ParallelBeam, Rays
from .huber_total_variation import HuberTotalVariation
from .indicator_real import IndicatorReal
from .indicators import *  # noqa: F403
from .joint_prox import JointProx
from .kernels import BurgKernel, EntropyKernel, EuclideanKernel
from .least_squares import LeastSquares
from .linear import *  # noqa: F403
from .list_mode import Events, histogram
from .module import ModuleOperator
from .mri import MRI
from .norms import *  # noqa: F403
from .nufft import *  # noqa: F403
from .operator import LinearOperator, Operator
from .penalties import MAC, Fenchel, Lifted, LiftedBregman, Penalty
from .penalty_term import PenaltyTerm
from .pet import PET
from .plug_and_play import PlugAndPlay
from .potentials import *  # noqa: F403
from .ray_transform import JosephProjector, RayTransform
from .sampling import *  # noqa: F403
from .scanner import CylindricalScanner
from .separable_sum import SeparableSum
from .smooth_potentials import *  # noqa: F403
from .space import Space
from .stacks import *  # noqa: F403
from .subsets import subsets
from .time_of_flight import TimeOfFlight
from .total_generalised_variation import *  # noqa: F403
from .total_variation import TotalVariation
from .transforms import FourierTransform, HadamardTransform
from .wavelet import Wavelet
