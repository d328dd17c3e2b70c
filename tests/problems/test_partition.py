"""Parts of a network: the best contiguous ones, by measured costs."""

import itertools

import pytest
import torch
from torch import nn

import paralift as pl


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8])
def test_partition_is_the_best_one(parts):
    generator = torch.Generator().manual_seed(parts)
    for _ in range(20):
        costs = torch.rand(8, generator=generator).pow(3).tolist()
        found = pl.partition(costs, parts)
        assert [i for group in found for i in group] == list(range(8)) and len(found) == parts and all(len(group) for group in found)
        largest = lambda ends: max(sum(costs[a:b]) for a, b in zip((0, *ends), (*ends, 8)))
        best = min(largest(ends) for ends in itertools.combinations(range(1, 8), parts - 1))
        assert abs(max(sum(costs[i] for i in group) for group in found) - best) < 1e-12


def test_costs_follow_the_work():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1500), nn.ReLU(), nn.Linear(1500, 1500), nn.ReLU(), nn.Linear(1500, 4))
    costs = pl.stage_costs(pl.LiftedTraining(network, torch.randn(64, 32), torch.randint(4, (64,))), batch_size=64)
    assert len(costs) == 4 and max(costs) == costs[2] and costs[2] > 5 * costs[0] > 0
    assert pl.partition(costs, 3)[1] == range(2, 3)


@pytest.mark.parametrize("call,words", [(lambda: pl.partition([1, 2], 3), "parts=3 for 2 stages"), (lambda: pl.partition([1, -2], 1), "the cost -2"),
                                        (lambda: pl.partition([1.0], 0), "parts=0"), (lambda: pl.stage_costs(batch_size=0, problem=None), "batch_size=0")])
def test_what_a_partition_needs_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
