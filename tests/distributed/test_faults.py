"""What goes wrong with workers: it is said once, in a sentence, and nothing is left behind."""

import gc
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from placed_problems import mesh, normalised, problem
from torch import nn

import paralift as pl
from paralift.distributed import Flushed, Streamed


def boom(result):
    if not result.x["0.weight"].numel():
        raise KeyError("a mistake of the user's")


def test_an_error_of_another_worker_reaches_the_user():
    with pytest.raises(RuntimeError, match=r"worker 1 failed(.|\n)*a mistake of the user's"):
        pl.PGD(3, step=0.1).solve(problem(), workers=mesh(1, 2), callback=boom)


def die(result):
    if not result.x["0.weight"].numel():
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_named():
    with pytest.raises(RuntimeError, match=r"worker 1 ended with exit code -9"):
        pl.PGD(30, step=0.1).solve(problem(), workers=mesh(1, 2), callback=die)


def sleep(result):
    if not result.x["0.weight"].numel() and result.iterations == 2:
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_stopped_worker_is_named_within_the_timeout():
    began = time.time()
    with pytest.raises(RuntimeError, match=r"worker 1 does not answer, after 7 s"):
        pl.PGD(30, step=0.1).solve(problem(), workers=mesh(1, 2, timeout=7), callback=sleep)
    assert time.time() - began < 20


@pytest.mark.parametrize("call, sentence", [
    (lambda: pl.Workers(), r"got no number; say how many"),
    (lambda: pl.Workers(total=4, data=3), r"total=4 and data=3, which does not divide it; use Workers\(4\)"),
    (lambda: pl.Workers(data=0), r"got data=0; it needs an integer >= 1"),
    (lambda: pl.PGD(1).solve(problem(), workers=0), r"workers=0 was given; it needs an integer >= 1"),
    (lambda: pl.PGD(1).solve(problem(), workers=mesh(1, 9)), r"9 workers were asked for (.|\n)*8 stages and 24 samples; use fewer"),
    (lambda: pl.PGD(1).solve(problem(), workers=mesh(25, 1)), r"25 workers were asked for (.|\n)*24 samples"),
    (lambda: pl.SAGA(1).solve(problem(), workers=mesh(1, 2)), r"(.|\n)*shares samples only"),
    (lambda: pl.ISGM(1, 8, sweeps=3).solve(problem(), workers=2), r"runs on one worker; use ISGM with one sweep"),
    (lambda: pl.BCD(1, batch_size=8).solve(problem(), workers=2), r"runs on one worker(.|\n)*BCD without groups"),
    (lambda: pl.BregmanPGD(1).solve(problem(), workers=2), r"BregmanPGD"),
    (lambda: pl.PGD(1).solve(pl.Composite(pl.L2NormSquared(3), start=torch.zeros(3)), workers=2), r"2 workers were asked for, and Composite has .*it has no operator"),
    (lambda: pl.ISGM(1, 4).solve(problem(), workers=mesh(1, 2, schedule=Streamed(8))), r"4 samples in a minibatch were given for 8 microbatches"),
    (lambda: pl.PGD(1).solve(problem(), workers=pl.Workers(2, shard_parameters=True)), r"shard_parameters=True was given for PGD"),
    (lambda: Streamed(0), r"Streamed got microbatches=0"),
])
def test_bad_input_is_a_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()


def test_forked_workers_run_where_this_process_has_threads():
    """A pool of threads does not survive a fork."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        torch.randn(600, 600) @ torch.randn(600, 600)
        pl.PGD(1, step=0.1).solve(problem())
        assert pl.PGD(1, step=0.1).solve(problem(), workers=mesh(1, 2, timeout=20)).iterations == 1
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


class Fails(nn.Linear):
    """Does `act` in worker `who`, in the middle of the first pass after `arm`."""

    who = act = None
    armed = False

    def forward(self, x):
        if Fails.armed and pl.distributed.rank() == Fails.who:
            Fails.act()
        return super().forward(x)


def arm(result):
    Fails.armed = result.iterations == 2


def failing(who, act):
    torch.manual_seed(0)
    Fails.who, Fails.act, Fails.armed = who, staticmethod(act), False
    network = nn.Sequential(*[m for _ in range(6) for m in (Fails(5, 5), nn.ReLU())], nn.Linear(5, 3)).double()
    return pl.LiftedTraining(network, torch.randn(24, 5, dtype=torch.float64), torch.randint(0, 3, (24,)))


def words():
    raise RuntimeError("the user's database timed out")


@pytest.mark.parametrize("who, sentence", [(0, "^the user's database timed out"), (1, r"worker 1 failed(.|\n)*in words(.|\n)*the user's database timed out")])
def test_words_of_the_users_are_not_those_of_a_lost_connection(who, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        pl.PGD(9, step=0.1).solve(failing(who, words), workers=mesh(1, 2, timeout=60), callback=arm)


def test_a_worker_that_exits_in_the_middle_of_a_pass_is_named_whatever_its_code():
    """3 is also the code of workers that others have left."""
    began = time.time()
    with pytest.raises(RuntimeError, match="worker 1 ended with exit code 3"):
        pl.PGD(9, step=0.1).solve(failing(1, lambda: os._exit(3)), workers=mesh(1, 2, timeout=60), callback=arm)
    assert time.time() - began < 30


def test_workers_that_wait_for_mail_end_by_themselves_where_worker_0_fails(monkeypatch):
    killed, kind = [], multiprocessing.get_context("fork").Process
    kill = kind.kill
    monkeypatch.setattr(kind, "kill", lambda child: (killed.append(child.pid), kill(child)))
    with pytest.raises(ValueError, match="seven"):
        pl.PGD(9, step=0.1).solve(failing(0, lambda: int("seven")), workers=mesh(1, 3, timeout=60), callback=arm)
    assert not killed


def test_where_little_memory_may_be_shared_the_rest_travels_by_gloo(monkeypatch):
    """A limit on a process's addresses, or on what all may ask for."""
    from paralift.distributed import room

    asked, there = [], mmap.mmap

    def limited(number, size):
        asked.append(size)
        if size > 2**21:
            raise OSError(12, "Cannot allocate memory")
        return there(number, size)

    plain = pl.PGD(3, step=0.1).solve(problem(), workers=mesh(1, 2))
    monkeypatch.setattr(room.mmap, "mmap", limited)
    small = pl.PGD(3, step=0.1).solve(problem(), workers=mesh(1, 2))
    assert len(asked) > 1 and all(torch.equal(v, small.x[n]) for n, v in plain.x.items())


def die_second(result):
    if pl.distributed.rank() == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_killed_worker_is_named_and_not_who_noticed():
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"worker 2 ended with exit code -9"):
            pl.PGD(30, step=0.1).solve(problem(), workers=mesh(1, 3), callback=die_second)


def wait_long(result):
    if pl.distributed.rank() == 0 and result.iterations == 2:
        for delay in (0.2, 0.5):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(30)


def test_a_second_ctrl_c_ends_at_once():
    began = time.time()
    with pytest.raises(KeyboardInterrupt):
        pl.PGD(30, step=0.1).solve(problem(), workers=mesh(1, 2), callback=wait_long)
    assert time.time() - began < 15


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.body(x)


def test_dropout_is_the_same_on_every_mesh():
    torch.manual_seed(0)
    p = pl.LiftedTraining(Noisy().double(), torch.randn(24, 5, dtype=torch.float64), torch.randint(0, 3, (24,)))
    runs = [pl.ISGM(2, 8).solve(p, workers=mesh(*m, schedule=Flushed(8))) for m in ((1, 1), (2, 1), (1, 2))]
    assert all(torch.equal(runs[0].x[n], r.x[n]) for r in runs[1:] for n in r.x)


def test_another_problem_is_not_resumed():
    first = pl.PGD(2, step=0.1).solve(problem())
    with pytest.raises(ValueError, match="belongs to another problem .24 samples instead of 12"):
        pl.PGD(3, step=0.1).solve(problem(samples=12), resume=first, workers=mesh(2, 1))


def test_strict_and_the_users_own_errors_come_through():
    with pytest.raises(RuntimeError, match="ended with MAX_SECONDS") as caught:
        pl.PGD(3, step=0.1, max_seconds=1e-9).solve(problem(), workers=2, strict=True)
    assert caught.value.result.x["x1"].shape == (24, 7)

    def wrong(result):
        raise RuntimeError("my own words")

    with pytest.raises(RuntimeError, match="^my own words"):
        pl.PGD(3, step=0.1).solve(problem(), workers=2, callback=wrong)


def test_small_minibatches_and_few_parts_are_cut_as_they_can():
    plain = pl.ISGM(2, 5).solve(problem())
    for workers in (mesh(2, 1), mesh(3, 1), mesh(2, 1, schedule=Flushed(1))):
        other = pl.ISGM(2, 5).solve(problem(), workers=workers)
        assert all(torch.allclose(v, other.x[n], rtol=1e-9, atol=1e-12) for n, v in plain.x.items())
    assert pl.ISGM(1, 8, accumulate=2).solve(problem(), workers=mesh(4, 1)).iterations == 1


def test_what_a_callback_keeps_is_whole(tmp_path):
    early = pl.EarlyStopping("validation_loss", patience=2)
    pl.ISGM(4, 8).solve(problem(validation=True), workers=mesh(1, 3), callback=early)
    assert early.best.x["4.weight"].shape == (6, 6)
    rest = pl.ISGM(early.best.iterations + 1, 8).solve(problem(validation=True), resume=early.best, workers=mesh(2, 1))
    assert rest.iterations == early.best.iterations + 1
    pl.PGD(2, step=0.1).solve(problem(), workers=mesh(1, 2), callback=lambda r: r.save(tmp_path / "r"))
    assert pl.Result.load(tmp_path / "r").x["x7"].shape == (24, 6)


def test_a_checkpoint_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        pl.PGD(2, step=0.1).solve(problem(), checkpoint=tmp_path / "file" / "c")


def test_one_worker_serves_every_method():
    assert pl.BCD(1, batch_size=8).solve(problem(), workers=1).iterations == 1
    with pytest.raises(ValueError, match="BatchNorm couples the samples, which SGD would split: use ISGM"):
        pl.SGD(1, 23).solve(normalised(), workers=mesh(2, 1))


def test_fingerprints_tell_problems_apart():
    from paralift.distributed.launch import fingerprint

    torch.manual_seed(3)
    network, x, y = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(9, 5), torch.randint(0, 3, (9,))
    make = lambda **more: fingerprint(pl.LiftedTraining(network, x, y, **more))
    same, others = make(), [make(penalty="mac"), make(frozen="0.*"), make(weight_regulariser=pl.L1Norm()), make(rho=3.0)]
    assert same == make() and all(other != same for other in others)
    image = torch.complex(x, x)
    of = lambda data: fingerprint(pl.Reconstruction(pl.IdentityOperator(pl.Space((9, 5), torch.complex64)), data))["data"]
    assert of(image) == of(image.clone()) != of(image.conj())


def test_garbage_of_an_earlier_group_is_not_collected_in_a_worker(tmp_path):
    """The threads of that group did not survive the fork, and its end in the child would wait for them."""
    dist = torch.distributed
    gc.disable()
    try:
        dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
        cycle = [dist.distributed_c10d._get_default_group()]
        cycle.append(cycle)
        dist.destroy_process_group()
        del cycle
        assert pl.PGD(2, step=0.1).solve(problem(), workers=mesh(1, 2, timeout=20), callback=lambda result: gc.collect()).iterations == 2
    finally:
        gc.enable()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_where_worker_0_is_killed(tmp_path, sign):
    """Its children end, and the last of them remove the folder in which they met."""
    script = tmp_path / "train.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport paralift as pl\nfrom placed_problems import mesh, problem\n"
                      "def note(result):\n    if pl.distributed.rank() == 0:\n        print(*[c.pid for c in __import__('multiprocessing').active_children()], flush=True)\n"
                      "pl.PGD(10**6, step=0.1).solve(problem(), workers=mesh(1, 3), callback=note, progress=False)\n")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}) as process:
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2 and list(tmp_path.glob("paralift*"))
        process.send_signal(sign)
        process.wait(10)
    end = time.time() + 10
    while time.time() < end and (list(tmp_path.glob("paralift*")) or any(Path(f"/proc/{pid}").exists() for pid in children)):
        time.sleep(0.05)
    assert not list(tmp_path.glob("paralift*")) and not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_group_without_a_backend_for_small_tensors_is_refused(tmp_path):
    from paralift.distributed.launch import _check_backends

    dist = torch.distributed
    for backend, device, lacking in (("cuda:gloo", "cuda", "cpu"), ("cpu:gloo", "cuda", "cuda"), ("cpu:gloo", "cpu", None)):
        dist.init_process_group(backend, store=dist.FileStore(str(tmp_path / f"{backend}{device}"), 1), rank=0, world_size=1)
        try:
            if lacking is None:
                _check_backends(torch.device(device))
            else:
                with pytest.raises(RuntimeError, match=f"{backend}. has no backend for tensors on the {lacking}; workers need one"):
                    _check_backends(torch.device(device))
        finally:
            dist.destroy_process_group()
