"""`SeparableSum`: a functional of several elements."""

from ..arguments import checked, shown

__all__ = ["SeparableSum"]


@checked
class SeparableSum:
    """f_1(x_1) + ... + f_k(x_k) on tuples of tensors; value, gradient and prox act part by part. Raises ValueError where the number of parts differs from k."""

    def __init__(self, *functionals):
        if not functionals:
            raise ValueError("SeparableSum got no functionals; it needs at least one.")
        self.functionals = functionals

    def _parts(self, x):
        if not isinstance(x, (tuple, list)):
            raise TypeError(f"SeparableSum got {shown(x)}; it needs a tuple of tensors, one for each of its {len(self.functionals)} functionals.")
        if len(x) != len(self.functionals):
            raise ValueError(f"SeparableSum got {len(x)} elements; its {len(self.functionals)} functionals need one each.")
        return zip(self.functionals, x)

    def __call__(self, x):
        return sum(f(part) for f, part in self._parts(x))

    def gradient(self, x):
        return tuple(f.gradient(part) for f, part in self._parts(x))

    def prox(self, x, sigma=1.0):
        return tuple(f.prox(part, sigma) for f, part in self._parts(x))
