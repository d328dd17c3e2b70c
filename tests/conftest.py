"""One thread a process: small tensors gain nothing from more, and processes run side by side."""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
