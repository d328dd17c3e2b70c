"""PARALIFT: train deep networks by lifting, without differentiating their activations."""

__version__ = "0.1.0"

from . import data, distributed, io, metrics, networks, plotting, testing
from .distributed import Simulated, Workers
from .interop import from_module, from_odl, from_pyproximal, to_odl, to_pylops
from .operators import *  # noqa: F403
from .problems import *  # noqa: F403
from .solvers import *  # noqa: F403
