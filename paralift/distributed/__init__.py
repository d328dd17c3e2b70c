"""Where a problem is solved: what stages cost, which mesh of workers serves, and simulated schedules."""

from .costs import Layout, Link, StageCosts, layout_table, layouts, measured_costs
from .simulation import SCHEDULES, Simulation, simulate
