"""Where a problem is solved: workers on a mesh."""

from .launch import share
from .mesh import Workers
