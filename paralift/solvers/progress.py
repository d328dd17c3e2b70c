"""The progress line: one on a terminal, at most a line every 30 s in a file. tqdm is imported when the first line is due."""

import sys
import time

__all__ = ["Progress"]


class Progress:
    """`show(...)` draws; a line is due from the time `next` on. Nothing appears for runs shorter than half a second (30 s in a file)."""

    def __init__(self, name, total, wanted):
        self.terminal = sys.stderr.isatty()
        self.wait = (0.5 if self.terminal else 30.0) if wanted in (None, True) else float("inf")
        self.name, self.total, self.bar = name, total, None
        self.began = time.perf_counter()
        self.next = self.began + self.wait

    def show(self, iteration, record, now):
        from tqdm import tqdm

        text = " ".join(f"{k} {v:.4g}" for k, v in record.items())
        if self.terminal:
            if self.bar is None:
                self.bar = tqdm(total=self.total, desc=self.name, file=sys.stderr, initial=iteration, dynamic_ncols=True, leave=True)
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(iteration - self.bar.n)
        else:
            print(f"{tqdm.format_meter(iteration, self.total, now - self.began, prefix=self.name)} {text}", file=sys.stderr, flush=True)
        self.next = now + self.wait

    def close(self):
        if self.bar is not None:
            self.bar.close()
