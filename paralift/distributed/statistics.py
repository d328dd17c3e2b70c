"""Batch statistics of all workers that share a minibatch."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SharedStatistics"]

ATEN = torch.ops.aten


class SharedStatistics(TorchDispatchMode):
    """While it is entered, batch normalisation in training takes mean and variance over the minibatch of all workers along `data`, weighted by their numbers of samples,
    and its backward the sums over them: the result is that of one worker with the whole minibatch. torch has two kinds of calls, its own and cuDNN's, which GPUs get."""

    def __init__(self, mesh):
        super().__init__()
        self.mesh = mesh

    def __torch_dispatch__(self, call, types, arguments=(), named=None):
        if call is ATEN.native_batch_norm.default and arguments[5]:
            return self._forward(*arguments)
        if call is ATEN.cudnn_batch_norm.default and arguments[5]:
            return *self._forward(*arguments), arguments[0].new_empty(0, dtype=torch.uint8)
        if call is ATEN.native_batch_norm_backward.default and arguments[7]:
            g, x, weight, _, _, mean, invstd, _, _, wanted = arguments
            return self._backward(g, x, weight, mean, invstd, wanted)
        if call is ATEN.cudnn_batch_norm_backward.default:
            x, g, weight, _, _, mean, invstd, *_ = arguments
            return self._backward(g, x, weight, mean, invstd, (True, True, True))
        return call(*arguments, **(named or {}))

    def _forward(self, x, weight, bias, running_mean, running_var, training, momentum, eps):
        axes, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        var, mean = torch.var_mean(x, axes, correction=0)
        n = x.numel() // x.shape[1]
        counts, means, vars_ = self.mesh.gather_data(torch.stack([torch.full_like(mean, n), mean, var])).unbind(1)           # (workers, channels) each
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        var = (counts * (vars_ + (means - mean).square())).sum(0) / total
        invstd = (var + eps).rsqrt()
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * total / (total - 1)).to(running_var), momentum)
        scale = invstd if weight is None else invstd * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(shift.view(shape), x, scale.view(shape)), mean, invstd

    def _backward(self, g, x, weight, mean, invstd, wanted):
        axes, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        normal = (x - mean.view(shape)) * invstd.view(shape)
        own = torch.stack([g.sum(axes), (g * normal).sum(axes), torch.full_like(mean, x.numel() // x.shape[1])])
        total = self.mesh.gather_data(own).sum(0)
        a, b = total[0] / total[2], total[1] / total[2]
        scale = invstd if weight is None else invstd * weight
        gx = scale.view(shape) * (g - a.view(shape) - normal * b.view(shape)) if wanted[0] else None
        return gx, own[1] if wanted[1] else None, own[0] if wanted[2] else None
