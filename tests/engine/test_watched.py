"""Calls that are waited for only as long as the processes live that answer them."""

import threading
import time
from multiprocessing import get_context

import pytest

from groma.engine.watched import ProcessEndedError, Watched
from patience import soon


class Worker:
    def __init__(self, number: int = 1) -> None:
        kind = get_context("spawn").Process
        self.processes = [kind(target=time.sleep, args=(100,), daemon=True) for _ in range(number)]
        for process in self.processes:
            process.start()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@pytest.fixture
def watched():
    started = Watched(lambda: Worker(2))
    yield started
    started.inner.close()


def test_what_a_call_gives_or_raises(watched):
    assert watched.alive
    assert watched.wait_for(lambda: 5) == 5
    with pytest.raises(TimeoutError, match="its own"):
        watched.wait_for(lambda: raise_(TimeoutError("its own")))


def raise_(error):
    raise error


def test_a_call_that_takes_long_is_waited_for(watched):
    assert watched.wait_for(lambda: time.sleep(1.2) or "late") == "late"


def test_who_dies_is_not_waited_for(watched):
    threading.Timer(0.2, watched.inner.processes[1].kill).start()
    ended = pytest.raises(ProcessEndedError, match=rf"^process {watched.inner.processes[1].name} has ended$")
    with soon(), ended:
        watched.wait_for(threading.Event().wait)
    assert not watched.alive


def test_what_it_says_itself_of_its_death_comes_first(watched):
    def notices():
        watched.inner.processes[0].join()
        raise RuntimeError("out of memory")

    threading.Timer(0.2, watched.inner.processes[0].kill).start()
    with pytest.raises(RuntimeError, match="out of memory"):
        watched.wait_for(notices)


def test_without_processes_nothing_is_watched():
    other = Worker()  # of somebody else
    watched = Watched(list)
    try:
        assert watched.alive and watched.wait_for(threading.get_ident) == threading.get_ident()
        other.close()
        assert watched.alive
    finally:
        other.close()
