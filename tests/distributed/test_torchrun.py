"""The same script alone and under torchrun; what differs between ranks is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import paralift as pl

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys, torch, paralift as pl
seed, path, extra = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
torch.manual_seed(seed + ("differ" in extra) * int(os.environ.get("RANK", 0)))
network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
problem = pl.LiftedTraining(network, torch.randn(32, 6, dtype=torch.float64), torch.randint(0, 3, (32,)))
result = pl.PGD(4, step=0.1).solve(problem, workers=5 if "five" in extra else None)
again = pl.ISGM(2, 16).solve(problem, workers=None)                    # a second one in the same group
if pl.distributed.rank() == 0:
    result.save(path)
"""


def run(tmp_path, *arguments, processes=2):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes else []
    return subprocess.run([sys.executable, *torchrun, str(script), *arguments], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def test_the_same_script_runs_alone_and_under_torchrun(tmp_path):
    for processes in (0, 2):
        done = run(tmp_path, "3", str(tmp_path / f"r{processes}"), processes=processes)
        assert done.returncode == 0, done.stderr
    alone, shared = (pl.Result.load(tmp_path / f"r{n}") for n in (0, 2))
    assert all(torch.allclose(v, shared.x[name], rtol=1e-10) for name, v in alone.x.items()) and shared.x["x1"].shape == (32, 8)


@pytest.mark.parametrize("extra, sentence", [("differ", "worker 1 differs from worker 0 in its initial parameters, data"),
                                             ("five", "workers=5 was given under torchrun with 2 processes; leave workers= out, or start torchrun --nproc-per-node 5")])
def test_ranks_that_do_not_fit_are_refused(tmp_path, extra, sentence):
    done = run(tmp_path, "3", str(tmp_path / "r"), extra)
    assert done.returncode and sentence in done.stderr + done.stdout, done.stderr[-2000:]
