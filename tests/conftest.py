"""Makes the helper modules of this folder importable from the tests of every room; tests compute on one thread each."""

import os

# Before torch is imported, and for the processes that tests start, too. What is computed here is small, several tests
# run side by side, and threads that wait for each other on a busy machine take ten times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections import Counter

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first, so that no worker begins with one when the others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Also where torch was imported before, or a test before this one left another number."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
