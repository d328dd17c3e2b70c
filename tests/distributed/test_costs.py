"""What stages cost, what crosses a cut, and the meshes that follow."""

import itertools
import math

import pytest
import torch
from torch import nn

import paralift as pl
from paralift.distributed import Link, StageCosts, layout_table, layouts, measured_costs
from paralift.distributed.costs import _affine

FREE = Link(0.0, math.inf, 0.0)


class Tied(nn.Module):
    """Stages 1 .. 5 with a skip from 1 over 2 to 3, and the weights of 1 again in 4."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        h = self.a(x).relu()
        k = (self.c(self.b(h).relu()) + h).relu()
        return self.d(self.a(k).relu())


def random_costs(stages, seed, skips=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(stages, generator=g).pow(2).tolist()
    parents = [{l} for l in range(stages)]
    for _ in range(skips):
        l = int(torch.randint(1, stages, (), generator=g))
        parents[l].add(int(torch.randint(0, l + 1, (), generator=g)))
    affine = lambda: tuple(zip(draw(), draw()))
    return StageCosts(affine(), affine(), tuple(draw()), tuple(draw()), tuple(map(tuple, map(sorted, parents))))


def test_measured_costs_of_a_network_with_skips_and_ties():
    torch.manual_seed(0)
    problem = pl.LiftedTraining(Tied(), torch.randn(64, 12), torch.randint(3, (64,)), frozen="b.bias")
    costs = measured_costs(problem, 64, repeats=2)
    assert costs.stages == 5 and costs.parents == ((0,), (1,), (1, 2), (3,), (4,))
    assert costs.parameter_bytes == (4 * 156, 4 * 144, 4 * 156, 0, 4 * 39) and costs.output_bytes == (48, 48, 48, 48, 12)
    assert costs.cut_bytes() == [48, 96, 48, 48]
    assert costs.messages([range(0, 1), range(1, 2), range(2, 5)]) == {(0, 1): 48, (0, 2): 48, (1, 2): 48}
    assert all(f >= 0 and r >= 0 for pair in costs.forward + costs.backward for f, r in [pair]) and min(costs.forward_seconds(64) + costs.backward_seconds(64)) > 0


@pytest.mark.parametrize("network,rows", [(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)), 2), (nn.Sequential(nn.Linear(6, 2)), 1)])
def test_costs_of_few_rows(network, rows):
    costs = measured_costs(pl.LiftedTraining(network, torch.randn(8, 6), torch.randint(2, (8,))), rows, repeats=1)
    assert sum(costs.seconds(2 * rows)) == pytest.approx(2 * sum(costs.seconds(rows))) and all(fixed == 0 for fixed, _ in costs.forward)


@pytest.mark.parametrize("times,pair", [((3, 9), (1, 2)), ((1, 9), (0, 9 / 4)), ((9, 3), (3, 0))])
def test_affine_costs_are_not_negative(times, pair):
    """Exact where an affine cost fits; else through the time at more rows."""
    assert _affine(1, times[0], 4, times[1]) == pytest.approx(pair)


@pytest.mark.parametrize("kind", ["jacobi", "stream", "flush"])
@pytest.mark.parametrize("seed", range(4))
def test_cuts_are_the_best_ones(kind, seed):
    """Against all cuts, with the traffic of every boundary counted anew."""
    L, d, rows, link = 7, 2, 12, Link(0.02, 30.0, 0.3)
    costs = random_costs(L, seed, skips=3)
    found = next(a for a in layouts(costs, 6, rows, kind, link, microbatches=3) if a.data == d)
    assert found.layers == 3 and found.cuts == tuple(g.stop for g in found.groups[:-1]) and [l for g in found.groups for l in g] == list(range(L))
    M = 1 if kind == "jacobi" else 3
    piece = rows / d / M

    def seconds(ends):
        largest = 0
        for a, b in zip((0, *ends), (*ends, L)):
            crossing = [sum(costs.output_bytes[p - 1] for p in range(1, e + 1) if any(p in costs.parents[c] for c in range(e, L))) for e in (a, b) if 0 < e < L]
            work = sum(costs.seconds(piece)[a:b]) + 0.7 * sum(2 * (0.02 + piece * c / 30) for c in crossing)
            largest = max(largest, (M + 2 if kind == "flush" else M) * work + 0.7 * link.all_reduce(sum(costs.parameter_bytes[a:b]), d))
        return largest

    best = min(map(seconds, itertools.combinations(range(1, L), 2)))
    assert found.seconds == pytest.approx(best, rel=1e-12) and seconds(found.cuts) == pytest.approx(best, rel=1e-12)
    assert found.efficiency == pytest.approx(sum(costs.seconds(rows)) / (6 * best))


def test_free_links_split_perfectly():
    costs = StageCosts.uniform(8, 1e-3, 2e-3, 100, 10)
    assert all(a.seconds == pytest.approx(8 * 64 * 3e-3 / 8) and a.efficiency == pytest.approx(1) for a in layouts(costs, 8, 64, link=FREE))
    for P, M in ((2, 4), (8, 16)):
        deep = next(a for a in layouts(costs, P, 64, "flush", FREE, microbatches=M) if a.layers == P)
        assert deep.efficiency == pytest.approx(M / (M + P - 1)) and deep.microbatches == M
    for kind in ("jacobi", "stream", "flush"):
        assert [a.seconds for a in layouts(costs, 1, 64, kind)] == [pytest.approx(sum(costs.seconds(64)))]


def test_ring_all_reduce():
    assert Link(1e-3, 1e6).all_reduce(8e6, 4) == pytest.approx(2 * 3 / 4 * 8 + 2 * 3 * 1e-3) and Link(1e-3, 1e6).all_reduce(8e6, 1) == 0
    (both,) = [a for a in layouts(StageCosts.uniform(1, 1.0, 1.0, 8e6), 4, 4, link=Link(1e-3, 1e6, 0.0))]
    assert both.seconds == pytest.approx(2 + 12.006) and both.sent == 12e6


def test_memory_chooses_the_mesh():
    """Data splits keep all parameters on every worker, layer splits a part."""
    costs = StageCosts.uniform(4, 1e-3, 1e-3, parameter_bytes=1000, boundary_bytes=1)
    everything = layouts(costs, 4, 8, link=FREE)
    assert {(a.data, a.layers): a.memory for a in everything} == {(4, 1): 8000 + 3 * 2 * 4, (2, 2): 4000 + 3 * 4 * 2, (1, 4): 2000 + 3 * 8}
    assert [(a.data, a.layers) for a in layouts(costs, 4, 8, link=FREE, memory=2100)] == [(1, 4)]
    with pytest.raises(ValueError, match="memory=100 bytes a worker was given, and 4 workers need at least 2024"):
        layouts(costs, 4, 8, memory=100)


def test_table():
    text = layout_table(layouts(StageCosts.uniform(4, 1e-3, 1e-3, 1e6, 4e3), 4, 8))
    assert len(text.splitlines()) == 4 and "1 x 4" in text and "1, 2, 3" in text and "efficiency" in text


@pytest.mark.parametrize("call,words", [
    (lambda c: layouts(c, 4, 8, "fast"), "kind='fast'; it needs 'jacobi', 'stream' or 'flush'"), (lambda c: layouts(c, 0, 8), "workers=0"),
    (lambda c: layouts(c, 5, 4), "no data . layers = 5"), (lambda c: layouts(c, 2, 8, "flush", microbatches=0), "microbatches=0"),
    (lambda c: Link(bandwidth=0), "bandwidth > 0"), (lambda c: measured_costs(rows=0, problem=None), "rows=0"),
    (lambda c: measured_costs(repeats=0, problem=None, rows=4), "repeats=0"), (lambda c: StageCosts(((0, 1),), (), (0,), (0,)), "one entry a stage"),
    (lambda c: StageCosts(((0, -1),), ((0, 1),), (0,), (0,)), "costs are numbers >= 0"),
    (lambda c: StageCosts(((0, 1),), ((0, 1),), (0,), (0,), ((1,),)), "parents earlier stages or 0")])
def test_what_is_needed_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call(StageCosts.uniform(3, 1.0, 1.0))
