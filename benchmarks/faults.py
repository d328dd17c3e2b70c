"""Workers killed at random moments: `python benchmarks/faults.py [--runs 60] [--workers 3]` counts the runs that end with the weights of the undisturbed one, bit for bit.

Every run is `torchrun --max-restarts` of this file's training (float64, ISGM flushed, a checkpoint after every pass); a random worker gets SIGKILL at a random
moment between the first pass and the last, writing of checkpoints included.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def train(folder):
    """What every worker runs."""
    import torch

    import paralift as pl

    folder = Path(folder)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).double()
    problem = pl.LiftedTraining(network, torch.randn(160, 20, dtype=torch.float64), torch.randint(0, 4, (160,)))
    (folder / f"pid{os.environ['RANK']}").write_text(str(os.getpid()))

    def slow(result):
        (folder / "passes").write_text(str(result.iterations))
        time.sleep(0.1)                                            # long enough for a kill between two checkpoints

    result = pl.ISGM(epochs=12, batch_size=32, seed=1).solve(problem, workers=pl.Workers(total=int(os.environ["WORLD_SIZE"]), schedule=pl.distributed.Flushed(8), timeout=30),
                                                           checkpoint=folder / "checkpoint", checkpoint_every=0.0, callback=slow)
    if pl.distributed.rank() == 0:
        result.save(folder / "result")


def run(workers, seed=None, seconds=120):
    """(weights, kills that met a living worker, seconds) of one training; with a seed a worker is killed."""
    import paralift as pl

    draw, kills, began = random.Random(seed), 0, time.time()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), "--max-restarts", "3", __file__, "--train", folder]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        try:
            if seed is not None:
                while not (folder / "passes").exists() and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(draw.uniform(0.0, 1.0))
                victim = int((folder / f"pid{draw.randrange(workers)}").read_text())
                try:
                    os.kill(victim, signal.SIGKILL)
                    kills = 1
                except ProcessLookupError:
                    pass
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return None, kills, time.time() - began
        if process.returncode or not (folder / "result").exists():
            print(output[-3000:])
            return None, kills, time.time() - began
        return pl.Result.load(folder / "result").x, kills, time.time() - began


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--workers", type=int, default=3)
    a = parser.parse_args()
    if a.train:
        return train(a.train)
    whole, _, undisturbed = run(a.workers)
    same, kills, failed, times = 0, 0, 0, []
    for seed in range(a.runs):
        x, killed, seconds = run(a.workers, seed)
        failed += x is None
        same += x is not None and all(torch.equal(v, x[name]) for name, v in whole.items())
        kills += killed
        times.append(seconds)
        print(f"\r{seed + 1} of {a.runs}: {same} the same, {failed} failed, {kills} killed", end="", flush=True)
    print(f"\n{same} of {a.runs} runs end with the undisturbed weights, {kills} with a worker killed; {undisturbed:.1f} s undisturbed, "
          f"{sorted(times)[len(times) // 2]:.1f} s (median) with a kill")
    return 0 if same == a.runs else 1


if __name__ == "__main__":
    sys.exit(main())
