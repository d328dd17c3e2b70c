"""What the solver loop costs beyond the arithmetic: PGD on a lasso of 30 unknowns against a bare torch loop of the same operations.

Both record objective and residual every `record_every` iterations. Prints microseconds an iteration; the best of several alternating runs.
"""

import argparse
import time

import torch

import paralift as pl


def bare(A, b, alpha, tau, iterations, record_every):
    x, history = torch.zeros(A.shape[1], dtype=A.dtype), []
    for k in range(1, iterations + 1):
        r = torch.mv(A, x) - b
        v = torch.sub(x, r @ A, alpha=tau)
        new = v - v.clamp(-tau * alpha, tau * alpha)
        if k % record_every == 0:
            s = (torch.mv(A, new) - b)
            history.append((float(0.5 * torch.dot(s, s) + alpha * new.abs().sum()), float(torch.linalg.vector_norm(new - x) / tau)))
        x = new
    return x


def measure(record_every=1, iterations=2000, repeats=5):
    """(loop, bare) in microseconds an iteration."""
    torch.manual_seed(0)
    A, b = torch.randn(60, 30, dtype=torch.float64), torch.randn(60, dtype=torch.float64)
    problem = pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), 3.0 * pl.L1Norm())
    tau = 1 / problem.lipschitz(None)["x"]
    solver = pl.PGD(iterations)
    best = [float("inf")] * 2
    for _ in range(repeats):
        for i, run in enumerate((lambda: solver.solve(problem, record_every=record_every, progress=False), lambda: bare(A, b, 3.0, tau, iterations, record_every))):
            began = time.process_time()
            run()
            best[i] = min(best[i], (time.process_time() - began) / iterations * 1e6)
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"{'record_every':>12} {'PGD':>8} {'bare':>8} {'beyond':>8}  microseconds an iteration")
    for every in (1, 10, 100):
        loop, plain = measure(every, 500 if quick else 3000, 3 if quick else 7)
        print(f"{every:>12} {loop:8.1f} {plain:8.1f} {loop - plain:8.1f}")
