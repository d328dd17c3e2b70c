"""Two machines, made of network namespaces with addresses of their own, run the script under torchrun; a cut link ends both with a named cause, and they resume."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import paralift as pl

ROOT = Path(__file__).parents[2]
NAMES = ("paralift_a", "paralift_b")
SCRIPT = """
import os, sys, time, torch, paralift as pl
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
problem = pl.LiftedTraining(network, torch.randn(32, 6, dtype=torch.float64), torch.randint(0, 3, (32,)))
path, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
def step(result):
    open(path + ".steps", "w").write(str(result.iterations))
    time.sleep(pause)
result = pl.PGD(steps, step=0.1).solve(problem, workers=pl.Workers(data=1, layers=2, timeout=6), checkpoint=path, checkpoint_every=0.0, callback=step,
                                       resume=path if os.path.exists(path) else None)
print("ended", result.status.name, result.iterations)
"""


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def machines():
    if "PARALIFT_MACHINES" not in os.environ:
        pytest.skip("set PARALIFT_MACHINES=1 to make network namespaces; it takes a minute, on an idle machine")
    if os.geteuid() or ip("netns", "add", NAMES[0]).returncode:
        pytest.skip("network namespaces cannot be made here")
    try:
        ip("netns", "add", NAMES[1])
        if ip("link", "add", "veth_a", "netns", NAMES[0], "type", "veth", "peer", "name", "veth_b", "netns", NAMES[1]).returncode:
            pytest.skip("virtual links cannot be made here")
        for name, link, address in zip(NAMES, ("veth_a", "veth_b"), ("10.77.0.1/24", "10.77.0.2/24")):
            ip("-n", name, "addr", "add", address, "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in NAMES:
            ip("netns", "del", name)


def launch(script, *arguments):
    command = lambda node: ["ip", "netns", "exec", NAMES[node], sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1",
                            "--master-addr", "10.77.0.1", "--master-port", "29544", str(script), *map(str, arguments)]
    environment = lambda node: {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": ("veth_a", "veth_b")[node]}
    return [subprocess.Popen(command(node), env=environment(node), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for node in (0, 1)]


def finish(processes, seconds):
    try:
        return [p.communicate(timeout=seconds)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()


def test_two_machines_and_a_cut_link(machines, tmp_path):
    script, path = tmp_path / "train.py", tmp_path / "checkpoint"
    script.write_text(SCRIPT)
    outputs = finish(launch(script, tmp_path / "whole", 12, 0), 90)
    assert all("ended MAX_ITERATIONS 12" in text for text in outputs), outputs
    whole = pl.Result.load(tmp_path / "whole").x
    processes = launch(script, path, 10**6, 0.05)
    while not path.exists():
        time.sleep(0.1)
        assert all(p.poll() is None for p in processes), finish(processes, 1)
    ip("-n", NAMES[0], "link", "set", "veth_a", "down")
    began = time.time()
    outputs = finish(processes, 40)
    assert time.time() - began < 45 and all("does not answer" in text or "a worker is in a step" in text for text in outputs), outputs
    ip("-n", NAMES[0], "link", "set", "veth_a", "up")
    done = pl.Result.load(path).iterations
    outputs = finish(launch(script, path, max(12, done + 2), 0), 90)
    assert all(f"ended MAX_ITERATIONS {max(12, done + 2)}" in text for text in outputs), outputs
    if done <= 12:
        assert all(torch.equal(v, whole[name]) for name, v in pl.Result.load(path).x.items())
