"""Simulated schedules against what is known of them in closed form."""

import csv
import math
import time

import pytest
import torch
from test_costs import random_costs
from torch import nn

import paralift as pl
from paralift.distributed import SCHEDULES, Link, Machine, StageCosts, calibrate, simulate
from paralift.distributed.events import Clock, Cores

FREE = {"bandwidth": math.inf, "latency": 0.0}
UNIFORM = StageCosts.uniform(8, 1.0, 2.0, parameter_bytes=64.0, boundary_bytes=1.0)
LARGE = StageCosts.uniform(8, 1.0, 2.0, parameter_bytes=2.0**23)          # a stage's gradients fill a bucket


def one(costs, schedule, workers, rows, feedback=False, **options):
    return simulate(costs, workers, rows, schedules=schedule, feedback=feedback, **options).runs[0]


def machine(messages=0.0, sums=0.0, bandwidth=math.inf, **facts):
    """Links without latency; the cores that messages and sums want."""
    return Machine(Link(0.0, bandwidth, cores=messages), Link(0.0, bandwidth, cores=sums), **facts)


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
    late = one(UNIFORM, "stream", 8, 64, latency=6.0, bandwidth=math.inf)                   # eight microbatches go there and back once, over 14 wires
    assert late.seconds == pytest.approx(8 * 24 + 14 * 6) and late.in_flight == 64


def test_exchange_of_a_layer_split():
    """Two workers of one stage: x there, the stage, its pull back; with more stages the interior ones hide it."""
    two = StageCosts.uniform(2, 1.0, 2.0, 0, 10.0)
    assert one(two, "layers", 2, 4, latency=0.5, bandwidth=100.0).seconds == pytest.approx(12 + 2 * (0.5 + 40 / 100))
    assert one(UNIFORM, "layers", 2, 4, latency=0.5, bandwidth=100.0).seconds == pytest.approx(48)


@pytest.mark.parametrize("d", [2, 4, 16])
def test_data_split_adds_a_ring(d):
    reduce = 2 * (d - 1) * 0.25 + 2 * (d - 1) / d * 8 * 64 / 16
    assert one(UNIFORM, "data", d, 64, latency=0.25, bandwidth=16.0).seconds == pytest.approx(8 * 3 * 64 / d + reduce)
    hidden = one(LARGE, "data_overlapped", d, 64, latency=0.0, bandwidth=2.0**23).seconds    # the last stage's bucket is left
    assert hidden == pytest.approx(8 * 3 * 64 / d + 2 * (d - 1) / d)
    assert one(UNIFORM, "data_overlapped", d, 64, latency=0.25, bandwidth=16.0).seconds == pytest.approx(8 * 3 * 64 / d + reduce)        # all in one bucket


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
    began = time.process_time()
    simulation = simulate(StageCosts.uniform(8, 1e-5, 2e-5, 4e6, 4e3, 1e-5), [4 ** k for k in range(7)], 1024)
    assert time.process_time() - began < 10 and len(simulation.runs) == 7 * len(SCHEDULES)
    assert all(run.data * run.layers <= 1024 * 8 for run in simulation.runs)


def test_a_problem_is_measured_and_the_result_is_kept(tmp_path):
    problem = pl.LiftedTraining(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 8), torch.randint(2, (16,)))
    simulation = simulate(problem, (1, 2, 4))
    assert simulation.batch_size == 16 and simulation.costs.stages == 2 and all(name in repr(simulation) for name in SCHEDULES)
    simulation.csv(tmp_path / "runs.csv")
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert len(rows) == 3 * len(SCHEDULES) and float(rows[0]["seconds"]) == simulation.runs[0].seconds
    figure = simulation.plot(tmp_path / "runs.png")
    lines = figure.axes[0].lines
    assert (tmp_path / "runs.png").stat().st_size > 1000 and len({(line.get_marker(), line.get_linestyle()) for line in lines}) == len(SCHEDULES)


# ---- cores, updates, visits
def test_jobs_share_cores():
    """Jobs of 1 and 3 s on one core end after 2 and 4 s; one that begins at 2 s joins; one that wants none takes its time, one that wants half a core slows the others less."""
    def ends(count, jobs):
        clock, found = Clock(), []
        cores = Cores(clock, count)
        for begin, seconds, wanted in jobs:
            clock.at(begin, cores.run, seconds, wanted, lambda: found.append(clock.now))
        clock.run()
        return found

    assert ends(1, [(0, 1, 1), (0, 3, 1)]) == pytest.approx([2, 4])
    assert ends(1, [(0, 3, 1), (2, 0.5, 1), (0, 5, 0)]) == pytest.approx([3, 3.5, 5])
    assert ends(2, [(0, 2, 1)] * 3) == pytest.approx([3, 3, 3]) and ends(2, [(0, 2, 1)] * 2) == pytest.approx([2, 2]) and ends(math.inf, [(0, 2, 1)] * 3) == [2, 2, 2]
    assert ends(1, [(0, 2, 1), (0, 1, 0.5)]) == pytest.approx([1.5, 2.5])


@pytest.mark.parametrize("schedule", ["layers", "data", "data_overlapped", "mesh", "stream", "asynchronous"])
def test_more_workers_than_cores_gain_nothing(schedule):
    assert one(UNIFORM, schedule, 4, 64, machine=machine(cores=2)).seconds == pytest.approx(8 * 3 * 64 / 2)
    assert one(UNIFORM, schedule, 2, 64, machine=machine(cores=2)).seconds == pytest.approx(8 * 3 * 64 / 2)


@pytest.mark.parametrize("d", [2, 4])
def test_sums_take_cores_from_computing(d):
    """Two cores for d processes: each has 2/d of a core for its products and its sums of 8 buckets, whether they overlap or not."""
    sums = 8 * 2 * (d - 1) / d
    for schedule in ("data", "data_overlapped"):
        assert one(LARGE, schedule, d, 64, machine=machine(sums=1.0, bandwidth=2.0**23, cores=2)).seconds == pytest.approx((8 * 3 * 64 / d + sums) * d / 2)
    own = one(LARGE, "data_overlapped", d, 64, machine=machine(bandwidth=2.0**23, cores=d)).seconds
    assert own == pytest.approx(8 * 3 * 64 / d + sums / 8)                    # a network that needs no core


def test_messages_take_cores_from_computing():
    """x of 4 rows there, the stage, its pull back, in turn; a message slows nothing but itself here: 2 cores wanted, 1 there."""
    two = StageCosts.uniform(2, 1.0, 2.0, 0, 10.0)
    assert one(two, "layers", 2, 4, machine=machine(messages=1.0, bandwidth=100.0, cores=2)).seconds == pytest.approx(12 + 2 * 0.4)
    shared = one(two, "layers", 2, 4, machine=machine(messages=2.0, bandwidth=100.0, cores=1)).seconds
    assert shared == pytest.approx(24 + 4 * 0.4)                              # two stages and 2 messages' 2 cores, one after the other


def test_updates_cost_time():
    """`completed` makes one worker's iteration last as long as was measured; layers split it, samples do not split the parameters' part."""
    costs = UNIFORM.completed({64: 8 * 3 * 64 + 80})
    assert costs.serial_seconds(64) == pytest.approx(8 * 3 * 64 + 80) and costs.update_seconds(1) == pytest.approx([10.0] * 8)
    fast = UNIFORM.completed({64: 8 * 3 * 32})                                # the stages alone were timed slower than the whole
    assert fast.update_seconds(64) == [0.0] * 8 and fast.serial_seconds(64) == pytest.approx(8 * 3 * 32) and fast.backward[0] == pytest.approx((0.0, 1.0))
    both = UNIFORM.completed({16: 80 + 16 * 48, 64: 80 + 64 * 48})            # twice as long a row as the stages, and 80 besides
    assert both.serial_seconds(32) == pytest.approx(80 + 32 * 48) and both.update_seconds(1) == pytest.approx([10.0] * 8) and both.forward[0] == pytest.approx((0.0, 2.0))
    for schedule in ("layers", "stream", "flush_1f1b"):
        plain = one(UNIFORM, schedule, 8, 64, microbatches=8, **FREE).seconds
        assert one(costs, schedule, 8, 64, microbatches=8, **FREE).seconds == pytest.approx(plain + 10)
    assert one(costs, "data", 8, 64, **FREE).seconds == pytest.approx(8 * 3 * 8 + 80)
    assert one(costs, "layers", 8, 64, **FREE).efficiency == pytest.approx(1)


def test_visits_and_feedback_of_a_stream():
    """Two workers, two microbatches of 4 rows: each visit costs its second; one microbatch in two meets an update on its way beyond worker 0, which asks a row of it again."""
    turn = 4 * 3 * 4
    assert one(UNIFORM, "stream", 2, 8, machine=machine(visit=1.0)).seconds == pytest.approx(2 * (turn + 1))
    assert one(UNIFORM, "stream", 2, 8, feedback=True, **FREE).seconds == pytest.approx(2 * turn + 4 * 1)
    assert one(UNIFORM, "flush_1f1b", 2, 8, feedback=True, microbatches=2, **FREE).seconds == one(UNIFORM, "flush_1f1b", 2, 8, microbatches=2, **FREE).seconds


def test_a_mesh_that_is_asked_for():
    run = one(UNIFORM, "data_overlapped", 8, 64, layers=4, **FREE)
    assert (run.data, run.layers) == (2, 4) and run.seconds == pytest.approx(8 * 3 * 64 / 8)
    assert one(UNIFORM, "mesh", 8, 64, layers=2, **FREE).layers == 2 and one(UNIFORM, "stream", 8, 64, layers=2, **FREE).data == 4
    with pytest.raises(ValueError, match="layers=3 for workers=.4"):
        simulate(UNIFORM, 4, 64, layers=3)


def test_this_machine_is_measured():
    before = torch.get_rng_state()
    found = calibrate(1)
    assert 0 < found.messages.latency < 1 and 1e6 < found.messages.bandwidth and 0 < found.messages.cores < 4 and 0 < found.sums.cores < 4
    assert found.cores >= 1 and 0 <= found.visit < 1e-2 and 0 < found.gather < 1e-6 and torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="repeats=0"):
        calibrate(0)
    with pytest.raises(ValueError, match="cores > 0"):
        Machine(cores=0)
    with pytest.raises(ValueError, match="cores >= 0"):
        Link(cores=-1)


@pytest.mark.parametrize("options,words", [
    ({"schedules": ("layers", "magic")}, "schedules .'magic'.; it knows layers, data"), ({"workers": (1, 0)}, "workers=0"), ({"workers": -1}, "workers=-1"),
    ({"bandwidth": 0}, "bandwidth > 0"), ({"latency": -1}, "latency >= 0"), ({"batch_size": None}, "batch_size=None"), ({"microbatches": 0}, "microbatches=0"),
    ({"slow": {0: 0}}, "factors > 0"), ({"slow": {-1: 2}}, "counted from 0")])
def test_what_a_simulation_needs_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        simulate(UNIFORM, **{"batch_size": 8, **options})
