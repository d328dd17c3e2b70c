"""Networks ready to lift: ordinary torch modules. Every class takes small sizes too, so that tests find and try it (`example()`)."""

from ..problems.staged import Staged
from ..problems.stages import affine, chain
from .convolutional import CNN, ResNet, UNet
from .perceptron import MLP, rescale
from .proximal import ProximalNetwork
from .transformer import CausalTransformer, VisionTransformer
from .unrolled import UnrolledNetwork

__all__ = ["affine", "chain", "MLP", "rescale", "CNN", "ResNet", "UNet", "VisionTransformer", "CausalTransformer", "ProximalNetwork", "UnrolledNetwork", "Staged"]
