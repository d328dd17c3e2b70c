"""Networks ready to lift."""

from .problems.stages import affine, chain

__all__ = ["affine", "chain"]
