"""Discrete events: a clock, cores that jobs share, wires and workers."""

import heapq
import itertools
import math
from collections import deque

__all__ = ["Clock", "Cores", "Wire", "Worker"]


class Clock:
    """Events in the order of time."""

    def __init__(self):
        self.now, self._events, self._count = 0.0, [], itertools.count()

    def at(self, time, do, *args):
        heapq.heappush(self._events, (time, next(self._count), do, args))

    def run(self):
        while self._events:
            self.now, _, do, args = heapq.heappop(self._events)
            do(*args)


class Cores:
    """Jobs share `count` cores: a job keeps `wanted` of them busy at full speed, and where jobs want more than there are, all slow down alike (processor sharing).

    count : math.inf where every job has cores of its own. A job that wants none takes its time whatever the others do.
    """

    def __init__(self, clock, count=math.inf):
        self.clock, self.count, self._jobs, self._number = clock, count, [], itertools.count()
        self._wanted, self._speed, self._done, self._since, self._plan = 0.0, 1.0, 0.0, 0.0, 0          # _done: seconds at full speed that every job has had since the start

    def run(self, seconds, wanted, then, *args):
        """then(*args) after so many seconds at full speed."""
        if not wanted or self.count == math.inf:
            self.clock.at(self.clock.now + seconds, then, *args)
            return
        self._advance()
        heapq.heappush(self._jobs, (self._done + seconds, next(self._number), wanted, then, args))
        self._share(self._wanted + wanted)

    def _advance(self):
        self._done += (self.clock.now - self._since) * self._speed
        self._since = self.clock.now

    def _share(self, wanted):
        """The speed from now on, and the job that ends first; a plan that came before is void."""
        self._wanted, self._plan = wanted if self._jobs else 0.0, self._plan + 1
        self._speed = min(1.0, self.count / self._wanted) if self._wanted else 1.0
        if self._jobs:
            self.clock.at(self.clock.now + max(0.0, self._jobs[0][0] - self._done) / self._speed, self._end, self._plan)

    def _end(self, plan):
        if plan == self._plan:
            self._done, self._since = self._jobs[0][0], self.clock.now
            _, _, wanted, then, args = heapq.heappop(self._jobs)
            self._share(self._wanted - wanted)
            then(*args)


class Wire:
    """One direction of a link: messages occupy it one after the other, and arrive `latency` later; they keep `wanted` cores busy meanwhile."""

    def __init__(self, cores, wanted=0.0):
        self.cores, self.wanted, self.queue, self.idle = cores, wanted, deque(), True

    def send(self, occupied, latency, then, *args):
        self.queue.append((occupied, latency, then, args))
        if self.idle:
            self._next()

    def _next(self):
        self.idle = not self.queue
        if self.queue:
            occupied, *rest = self.queue.popleft()
            self.cores.run(occupied, self.wanted, self._sent, *rest)

    def _sent(self, latency, then, args):
        self.cores.run(latency, self.wanted, then, *args)
        self._next()


class Worker:
    """Does its tasks one at a time, in their order, each once its needs have arrived."""

    def __init__(self, cores, factor=1.0):
        self.cores, self.factor, self.tasks, self.arrived, self.busy, self.idle = cores, factor, deque(), set(), 0.0, True

    def add(self, needs, seconds, done, *args):
        self.tasks.append((needs, seconds * self.factor, done, args))
        self._next()

    def arrive(self, token):
        self.arrived.add(token)
        self._next()

    def _next(self):
        if self.idle and self.tasks and self.tasks[0][0] <= self.arrived:
            _, seconds, done, args = self.tasks.popleft()
            self.idle, self.busy = False, self.busy + seconds
            self.cores.run(seconds, 1.0, self._finish, done, args)

    def _finish(self, done, args):
        self.idle = True
        done(*args)
        self._next()
