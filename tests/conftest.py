"""One thread for all tests: small tensors gain nothing from more, and on a busy machine threads wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
