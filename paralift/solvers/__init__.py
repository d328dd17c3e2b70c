"""How a problem is solved: the loop and the methods."""

from .bcd import BCD
from .isgm import ISGM
from .katyusha import Katyusha
from .pgd import PGD
from .piag import PIAG
from .result import Result, Status
from .saga import SAGA
from .sgd import SGD
from .solver import Solver
from .svrg import SVRG
