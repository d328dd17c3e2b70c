"""What `import paralift` costs beyond `import torch`, and `L1Norm.prox` beyond its bare expression: `python benchmarks/overheads.py [--quick]`.

Both alternate; medians over the runs.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

import paralift as pl


def import_seconds(module):
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def microseconds(call, number):
    began = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - began) / number * 1e6


def show(name, rows, unit):
    extra = [b - a for a, b in rows]
    print(f"{name:<44}{statistics.median(a for a, _ in rows):9.3f}{statistics.median(b for _, b in rows):9.3f}"
          f"   difference {statistics.median(extra):.3f} ({min(extra):.3f} to {max(extra):.3f}) {unit}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    show("import torch, import paralift", [(import_seconds("torch"), import_seconds("paralift")) for _ in range(3 if quick else 11)], "s")
    x, f = torch.randn(100), pl.L1Norm()
    calls = lambda: x - x.clamp(-0.3, 0.3), lambda: f.prox(x, 0.3)
    show("x - x.clamp(-s, s), L1Norm().prox(x, s); 100", [tuple(microseconds(c, 20000) for c in calls) for _ in range(5 if quick else 15)], "microseconds")
