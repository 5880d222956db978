"""Makes the helper modules of this folder importable from the tests of every room; tests compute on one thread each."""

import os

# Before torch is imported, and for the processes that tests start, too. What is computed here is small, several tests
# run side by side, and threads that wait for each other on a busy machine take ten times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Also where torch was imported before, or a test before this one left another number."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
