"""Batch statistics over workers, of both kinds of calls that torch has for them."""

from types import SimpleNamespace

import pytest
import torch

from paralift.distributed.statistics import SharedStatistics

TWICE = SimpleNamespace(gather_data=lambda t: torch.stack([t, t]))               # two workers with the same samples


@pytest.mark.parametrize("call", [torch.ops.aten.native_batch_norm.default, torch.ops.aten.cudnn_batch_norm.default], ids=["torch", "cuDNN"])
def test_both_kinds_of_calls_are_those_of_the_whole_minibatch(call):
    """GPUs call cuDNN's; it is replaced before a GPU is asked for."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    x, weight, bias, r = draw(6, 3, 4).requires_grad_(), draw(3).requires_grad_(), draw(3).requires_grad_(), draw(6, 3, 4)
    running, expected_running = ([torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)] for _ in range(2))
    with SharedStatistics(TWICE):
        out = call(x, weight, bias, *running, True, 0.3, 1e-5)[0]
        gx, gw, gb = torch.autograd.grad(out, (x, weight, bias), r)
    whole = torch.nn.functional.batch_norm(torch.cat([x, x]), *expected_running, weight, bias, True, 0.3, 1e-5)
    hx, hw, hb = torch.autograd.grad(whole, (x, weight, bias), torch.cat([r, r]))
    assert torch.allclose(torch.cat([out, out]), whole) and all(torch.allclose(a, b) for a, b in zip(running, expected_running))
    assert torch.allclose(2 * gx, hx) and torch.allclose(2 * gw, hw) and torch.allclose(2 * gb, hb)
