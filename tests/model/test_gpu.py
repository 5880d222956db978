"""The same model on a GPU: what it answers there is what it answers on the CPU."""

import pytest
import torch

from groma.inference.generate import Decoding
from small_models import assert_same, picture, small_groma

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BOX = (10, 12, 60, 70)


def answers(device: str):
    groma = small_groma(seed=1)
    groma.model.to(device)
    pictures = [picture(0), picture(1, (200, 90))]
    return groma.ask(pictures, "What is [1]?", regions=[[BOX], [BOX]], decoding=Decoding(max_new_tokens=24))


def test_answers_on_a_gpu_are_those_of_the_cpu():
    for one, other in zip(answers("cpu"), answers("cuda"), strict=True):
        assert_same(one, other)
