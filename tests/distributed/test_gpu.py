"""The same runs on GPUs, one process a device, with NCCL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, torch, paralift as pl
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
x, y = torch.randn(32, 6, dtype=torch.float64), torch.randint(0, 3, (32,))
world = int(os.environ["WORLD_SIZE"])
placed = pl.LiftedTraining(network.cuda(), x.cuda(), y.cuda())
for mesh in {(world, 1), (1, min(world, 3))} if world <= 3 else {(world, 1)}:
    for solver in (pl.PGD(3, step=0.1), pl.ISGM(2, 8, metric="plain")):
        result = solver.solve(placed, workers=pl.Workers(data=mesh[0], layers=mesh[1], schedule=pl.distributed.Flushed(world)))
        if pl.distributed.rank() == 0:
            print("ended", mesh, type(solver).__name__, result.x["0.weight"].device.type, float(result.objective))
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpus_agree_with_the_cpu(tmp_path):
    import paralift as pl

    script, devices = tmp_path / "train.py", min(torch.cuda.device_count(), 2)
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices), str(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300,
                         env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert run.returncode == 0, run.stdout + run.stderr
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    problem = pl.LiftedTraining(network, torch.randn(32, 6, dtype=torch.float64), torch.randint(0, 3, (32,)))
    expected = {"PGD": pl.PGD(3, step=0.1).solve(problem).objective, "ISGM": pl.ISGM(2, 8, metric="plain").solve(problem).objective}
    lines = [line.rsplit(maxsplit=3) for line in run.stdout.splitlines() if line.startswith("ended")]
    assert lines and all(device == "cuda" and abs(float(value) - expected[name]) < 1e-9 for _, name, device, value in lines)
