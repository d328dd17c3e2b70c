"""How a problem is solved: the loop and the methods."""

from .bcd import BCD
from .fista import FISTA
from .isgm import ISGM
from .pgd import PGD
from .result import Result, Status
from .solver import Solver
from .steps import *  # noqa: F403
from .stopping import Tolerance
