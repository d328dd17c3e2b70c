"""Simulated schedules against what is known of them in closed form."""

import csv
import math
import time

import pytest
import torch
from test_costs import random_costs
from torch import nn

import paralift as pl
from paralift.distributed import SCHEDULES, StageCosts, simulate

FREE = {"bandwidth": math.inf, "latency": 0.0}
UNIFORM = StageCosts.uniform(8, 1.0, 2.0, parameter_bytes=64.0, boundary_bytes=1.0)


def one(costs, schedule, workers, rows, **options):
    return simulate(costs, workers, rows, schedules=schedule, **options).runs[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_worker_takes_the_sum_of_the_costs(schedule):
    costs = random_costs(6, 1, skips=2)
    run = one(costs, schedule, 1, 24)
    assert run.seconds == pytest.approx(sum(costs.seconds(24))) and run.efficiency == pytest.approx(1) and run.idle == pytest.approx(0, abs=1e-12)
    assert (run.data, run.layers) == (1, 1)


@pytest.mark.parametrize("workers", [2, 4, 8, 32])
@pytest.mark.parametrize("schedule", ["layers", "data", "data_overlapped", "mesh", "stream", "asynchronous"])
def test_free_links_and_equal_stages_give_the_whole_speed_up(schedule, workers):
    run = one(UNIFORM, schedule, workers, 64, **FREE)
    assert run.seconds == pytest.approx(8 * 3 * 64 / workers, rel=1e-12) and run.efficiency == pytest.approx(1, rel=1e-12) and run.idle == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("schedule", ["flush", "flush_1f1b"])
@pytest.mark.parametrize("P,M", [(2, 2), (4, 8), (8, 4), (8, 32)])
def test_the_bubble_of_a_flush(schedule, P, M):
    """Efficiency M / (M + P - 1); all rows are in flight, or one microbatch a worker."""
    run = one(UNIFORM, schedule, P, 64, microbatches=M, **FREE)
    assert run.efficiency == pytest.approx(M / (M + P - 1), rel=1e-12) and run.idle == pytest.approx((P - 1) / (M + P - 1))
    assert run.in_flight == (64 if schedule == "flush" else 64 // M * min(P, M))


def test_a_stream_has_no_bubble_whatever_the_microbatches():
    assert [one(UNIFORM, "stream", 8, 64, microbatches=M, **FREE).efficiency for M in (1, 2, 8, 64)] == pytest.approx([1] * 4)
    assert one(UNIFORM, "stream", 8, 64, microbatches=3, **FREE).efficiency > 0.96           # microbatches of 22, 21 and 21 rows
    assert one(UNIFORM, "stream", 8, 64, **FREE).in_flight == 64
    late = one(UNIFORM, "stream", 8, 64, latency=6.0, bandwidth=math.inf)                   # a quarter of a turn, hidden by more in flight
    assert late.efficiency > 0.94 and 64 < late.in_flight <= 128


def test_exchange_of_a_layer_split():
    """Two workers of one stage: x there, the stage, its pull back; with more stages the interior ones hide it."""
    two = StageCosts.uniform(2, 1.0, 2.0, 0, 10.0)
    assert one(two, "layers", 2, 4, latency=0.5, bandwidth=100.0).seconds == pytest.approx(12 + 2 * (0.5 + 40 / 100))
    assert one(UNIFORM, "layers", 2, 4, latency=0.5, bandwidth=100.0).seconds == pytest.approx(48)


@pytest.mark.parametrize("d", [2, 4, 16])
def test_data_split_adds_a_ring(d):
    reduce = 2 * (d - 1) * 0.25 + 2 * (d - 1) / d * 8 * 64 / 16
    assert one(UNIFORM, "data", d, 64, latency=0.25, bandwidth=16.0).seconds == pytest.approx(8 * 3 * 64 / d + reduce)
    hidden = one(UNIFORM, "data_overlapped", d, 64, latency=0.0, bandwidth=64.0).seconds     # at most a stage's bucket is left
    assert hidden < one(UNIFORM, "data", d, 64, latency=0.0, bandwidth=64.0).seconds and hidden >= 8 * 3 * 64 / d


def test_mesh_is_the_best_of_all():
    costs = random_costs(8, 3)
    for workers in (4, 16, 64):
        runs = {name: one(costs, name, workers, 64, latency=0.01, bandwidth=50.0).seconds for name in ("mesh", "layers", "data", "data_overlapped")}
        assert runs["mesh"] <= min(runs.values()) * (1 + 1e-9)


def test_a_slow_worker_holds_up_all_but_the_asynchronous():
    """One of m workers takes 5 times as long: synchronous 5 T, asynchronous m T / (m - 1 + 1/5)."""
    slow, m = {3: 5.0}, 8
    T = 8 * 3 * 64 / m
    data = one(UNIFORM, "data", m, 64, slow=slow, **FREE)
    assert data.seconds == pytest.approx(5 * T) and data.idle == pytest.approx(1 - (7 + 5) / (8 * 5))
    assert one(UNIFORM, "layers", m, 64, slow=slow, **FREE).seconds == pytest.approx(5 * T)
    assert one(UNIFORM, "stream", m, 64, slow=slow, **FREE).seconds == pytest.approx(5 * T, rel=0.01)
    assert one(UNIFORM, "asynchronous", m, 64, slow=slow, **FREE).seconds == pytest.approx(m * T / (m - 1 + 0.2), rel=0.05)
    assert one(UNIFORM, "data", 2, 64, slow=slow, **FREE).seconds == pytest.approx(8 * 3 * 64 / 2)          # worker 3 is not among them


def test_messages_queue_at_the_master():
    """Where its wire is full, an iteration is all workers' gradients, one after the other."""
    assert one(UNIFORM, "asynchronous", 16, 64, latency=0.0, bandwidth=1.0).seconds == pytest.approx(16 * 8 * 64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_graph_on_any_number_of_workers(schedule, seed):
    """Nothing waits for ever, and no schedule computes faster than its workers can."""
    costs, rows = random_costs(9, seed, skips=6), 12
    for run in simulate(costs, (2, 3, 5, 9, 20, 200), rows, bandwidth=20.0, latency=0.05, schedules=schedule).runs:
        least = sum(row for pair in (costs.forward, costs.backward) for _, row in pair) * rows / run.workers
        assert run.seconds >= least and 0 <= run.idle < 1 and run.data * run.layers <= run.workers and run.layers <= 9 and run.data <= rows and run.in_flight > 0


def test_thousands_of_workers_in_seconds():
    began = time.perf_counter()
    simulation = simulate(StageCosts.uniform(8, 1e-5, 2e-5, 4e6, 4e3, 1e-5), [4 ** k for k in range(7)], 1024)
    assert time.perf_counter() - began < 10 and len(simulation.runs) == 7 * len(SCHEDULES)
    assert all(run.data * run.layers <= 1024 * 8 for run in simulation.runs)


def test_a_problem_is_measured_and_the_result_is_kept(tmp_path):
    problem = pl.LiftedTraining(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 8), torch.randint(2, (16,)))
    simulation = simulate(problem, (1, 2, 4))
    assert simulation.batch_size == 16 and simulation.costs.stages == 2 and all(name in repr(simulation) for name in SCHEDULES)
    simulation.csv(tmp_path / "runs.csv")
    rows = list(csv.DictReader(open(tmp_path / "runs.csv")))
    assert len(rows) == 3 * len(SCHEDULES) and float(rows[0]["seconds"]) == simulation.runs[0].seconds
    figure = simulation.plot(tmp_path / "runs.png")
    lines = figure.axes[0].lines
    assert (tmp_path / "runs.png").stat().st_size > 1000 and len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(SCHEDULES)


@pytest.mark.parametrize("options,words", [
    ({"schedules": ("layers", "magic")}, "schedules .'magic'.; it knows layers, data"), ({"workers": (1, 0)}, "workers=0"), ({"workers": -1}, "workers=-1"),
    ({"bandwidth": 0}, "bandwidth > 0"), ({"latency": -1}, "latency >= 0"), ({"batch_size": None}, "batch_size=None"), ({"microbatches": 0}, "microbatches=0"),
    ({"slow": {0: 0}}, "factors > 0"), ({"slow": {-1: 2}}, "counted from 0")])
def test_what_a_simulation_needs_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        simulate(UNIFORM, **{"batch_size": 8, **options})
