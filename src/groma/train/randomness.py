"""The global random generators (Python, numpy, torch): seeding, saving and restoring all of them together."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def seed_everything(seed: int, rank: int) -> None:
    """Seed all global generators, differently for each process."""
    mixed = int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def random_state() -> dict[str, Any]:
    """The state of all global generators, as plain values and tensors (loadable with `weights_only=True`)."""
    numpy_state = cast(dict[str, Any], np.random.get_state(legacy=False))
    position = int(numpy_state["state"]["pos"])
    state = {
        "python": random.getstate(),
        "numpy_key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_rest": (position, int(numpy_state["has_gauss"]), float(numpy_state["gauss"])),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put all global generators back to where `random_state` saw them."""
    random.setstate(state["python"])
    key = state["numpy_key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, *state["numpy_rest"]))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def undisturbed_randomness() -> Iterator[None]:
    """Whatever the `with` block draws, the generators continue afterwards as if it had not run."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
