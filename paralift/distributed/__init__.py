"""Where a problem is solved: what stages cost, which mesh of workers serves, the workers, and simulated schedules."""

from .costs import Layout, Link, StageCosts, layout_table, layouts, measured_costs
from .launch import rank, share
from .machine import Machine, calibrate
from .mesh import Simulated, Workers
from .schedules import Flushed, Streamed
from .simulation import SCHEDULES, Simulation, simulate
