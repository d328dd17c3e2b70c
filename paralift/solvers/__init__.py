"""How a problem is solved: the loop and the methods."""

from .admm import ADMM
from .bcd import BCD
from .bregman_pgd import BregmanPGD
from .conjugate_gradient import ConjugateGradient
from .douglas_rachford import DouglasRachford
from .fista import FISTA
from .implicit_gradient import ImplicitGradient
from .isgm import ISGM
from .katyusha import Katyusha
from .lbfgs import LBFGS
from .linearized_bregman import LinearizedBregman
from .mlem import MLEM, OSEM
from .pdhg import PDHG
from .pgd import PGD
from .piag import PIAG
from .result import Result, Status
from .saga import SAGA
from .sgd import SGD
from .solver import Solver
from .spdhg import SPDHG
from .steps import *  # noqa: F403
from .stopping import EarlyStopping, Tolerance
from .storage import Storage
from .svrg import SVRG
from .weights import discrepancy_weight, quasi_optimality_weight
