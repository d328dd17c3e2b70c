"""Warnings that name the line of the user's script."""

import sys
import warnings

__all__ = ["warn"]


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """A warning at the nearest line outside of this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "paralift":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
