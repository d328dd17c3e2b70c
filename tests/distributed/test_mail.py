"""Messages through memory that forked workers share."""

import mmap
import os
import random
import time

import pytest
import torch

from paralift.distributed.mail import SLOTS, Mail


def both(mail, child, parent):
    """child() in a fork, parent() here; both must end well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)
    try:
        parent()
    finally:
        ended = os.waitpid(pid, 0)[1]
    assert ended == 0


def content(tag, number):
    size, g = random.Random(100 * tag + number).randrange(400), torch.Generator().manual_seed(1000 * tag + number)
    return torch.randn(size, dtype=torch.float64 if tag % 2 else torch.float32, generator=g)


@pytest.mark.parametrize("size", [2**20, 6 * 2**10])
def test_messages_arrive_in_the_order_of_their_tag(size):
    """300 messages of three tags both ways, read in another order than they are sent in; where room is short the reader learns that a message comes elsewhere."""
    mail = Mail(2, mmap.mmap(-1, size), 0)
    order = [tag for tag in range(3) for _ in range(100)]

    def work(rank):
        mail.enter(rank, 20.0)
        mine, theirs, sent, read, kept = order[:], order[:], [0] * 3, [0] * 3, []
        random.Random(rank).shuffle(mine)
        random.Random(1 - rank).shuffle(theirs)
        here = 0
        for begin in range(0, 300, 10):
            for tag in mine[begin:begin + 10]:
                kept.append(mail.send(content(tag, sent[tag]), 1 - rank, tag))
                sent[tag] += 1
            for tag in sorted(theirs[begin:begin + 10]):
                expected = content(tag, read[tag])
                buffer = torch.full_like(expected, float("nan"))
                if mail.receive(buffer, 1 - rank, tag):
                    here += 1
                    assert torch.equal(buffer, expected)
                read[tag] += 1
        assert (here == 300) == (size == 2**20) and here > 30
        mail.tell(1 - rank, 9)
        mail.heard(1 - rank, 9)

    both(mail, lambda: work(1), lambda: work(0))
    mail.close()


def test_a_few_places_are_used_again_and_again():
    mail = Mail(2, mmap.mmap(-1, 2**22), 0)

    def child():
        mail.enter(1, 20.0)
        buffer = torch.empty(1000)
        for k in range(1000):
            assert mail.receive(buffer, 0, 1) and float(buffer[5]) == k
            mail.tell(0, 2)

    def parent():
        mail.enter(0, 20.0)
        for k in range(1000):
            assert mail.send(torch.full((1000,), float(k)), 1, 1)
            mail.heard(1, 2)
            assert max(end for _, end in mail.unread.values()) <= 2 * 4096 and len(mail.unread) <= 2

    both(mail, child, parent)
    mail.close()


def test_too_many_unread_messages_go_elsewhere():
    mail = Mail(2, mmap.mmap(-1, 2**22), 0)
    mail.enter(0, 20.0)
    assert [mail.send(torch.ones(2), 0, 0) for _ in range(SLOTS + 5)] == [True] * SLOTS + [False] * 5
    buffer = torch.zeros(2)
    assert [mail.receive(buffer, 0, 0) for _ in range(SLOTS + 5)] == [True] * SLOTS + [False] * 5
    assert mail.send(torch.ones(2), 0, 0)
    mail.close()


def test_full_pipes_are_no_deadlock():
    """Both write more than a pipe holds before they read, and all of it arrives; where nobody reads, that is an error in time."""
    mail = Mail(2, mmap.mmap(-1, 2**20), 0)

    def work(rank):
        mail.enter(rank, 20.0)
        for number in range(5000):
            mail.send(torch.tensor([float(number)]), 1 - rank, 1)
        buffer, here = torch.zeros(1), 0
        for number in range(5000):
            if mail.receive(buffer, 1 - rank, 1):
                here += 1
                assert float(buffer) == number
        assert here >= SLOTS

    both(mail, lambda: work(1), lambda: work(0))
    mail.close()
    mail = Mail(2, mmap.mmap(-1, 2**20), 0).enter(0, 0.3)
    with pytest.raises(RuntimeError, match="Timed out waiting for worker 1 to read its messages"):
        for _ in range(10**5):
            mail.tell(1, 0)
    mail.close()


def test_silence_and_ends_are_errors():
    """A sender that is silent, workers that have gone, and a worker 0 that has gone."""
    mail = Mail(2, mmap.mmap(-1, 2**20), 0)
    mail.enter(0, 0.3)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="Timed out waiting for a message of worker 1"):
        mail.heard(1, 0)
    assert time.monotonic() - began < 2
    mail.end()
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        mail.heard(1, 0)
    mail.close()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:                                                            # worker 0, which leaves its child alone
        mail = Mail(2, mmap.mmap(-1, 2**20), 0)
        if os.fork() == 0:
            mail.enter(1, 20.0)
            try:
                mail.heard(0, 0)
            except RuntimeError as error:
                os.write(tell, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(tell)
    assert b"worker 0 has gone" in os.read(told, 200)
    os.close(told)
