"""FLOPs and bytes of modules that are small enough to count by hand, and floors made of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from groma.bench.machine import Machine, best_of, measure_machine, unsteadiness
from groma.bench.memory import model_bytes, peak_of
from groma.bench.work import Work, bytes_of, count_flops, weight_bytes, without_gradients
from groma.model.types import FeatureMaps

CPU = torch.device("cpu")


def machine(matrix: float = 100.0, **copies: float) -> Machine:
    copy_rates = {int(size.removeprefix("b")): rate for size, rate in copies.items()} or {1: 10.0}
    return Machine(
        device="cpu",
        name="",
        threads=1,
        memory_bytes=None,
        matrix_rates={"float32": matrix},
        copy_rates=copy_rates,
    )


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_flops_by_hand(grad):
    with grad():
        # 5 rows times 3 x 7 weights, two operations each; the bias counts nothing
        assert count_flops(lambda: nn.Linear(3, 7)(torch.ones(5, 3)))[0] == 2 * 5 * 3 * 7
        # 2 pictures, 4 x 6 places, 8 channels out of 3 through a window of 3 x 3
        conv = nn.Conv2d(3, 8, 3, padding=1)
        assert count_flops(lambda: conv(torch.ones(2, 3, 4, 6)))[0] == 2 * 2 * 4 * 6 * 8 * 3 * 9
        # 2 x 4 heads, 5 queries of 8 numbers look at 7 keys, and add 7 values
        query, key = torch.ones(2, 4, 5, 8), torch.ones(2, 4, 7, 8)
        flops, out = count_flops(lambda: F.scaled_dot_product_attention(query, key, key))
        assert flops == 2 * (2 * 2 * 4 * 5 * 7 * 8)
        assert out.shape == query.shape


def test_the_language_model_by_hand(assistant):
    """Llama without biases: projections, perceptron and attention of every layer."""
    language, config = assistant.model.language, assistant.model.config.language
    width, inner, tokens = config.hidden_size, config.intermediate_size, 9
    key_width = width * config.num_key_value_heads // config.num_attention_heads
    one = 2 * tokens * (2 * width * width + 2 * width * key_width + 3 * width * inner) + 2 * 2 * tokens**2 * width
    with torch.inference_mode(), without_gradients(language):
        flops, _ = count_flops(lambda: language(torch.zeros(1, tokens, width)))
    # transformers 5.17 multiplies out the angles of the positions as well: a number a token
    assert flops == pytest.approx(config.num_hidden_layers * one, rel=1e-3)


def test_parameters_that_ask_for_gradients_ask_again_afterwards():
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    with without_gradients(module):
        assert not module.weight.requires_grad
    assert module.weight.requires_grad
    assert not module.bias.requires_grad


def test_bytes_count_each_tensor_once_however_deep():
    one, other = torch.zeros(3, 4), torch.zeros(2, dtype=torch.uint8)
    assert bytes_of({"a": [one, (other,)], "b": one, "c": FeatureMaps(last=(one,)), "d": "text"}) == 3 * 4 * 4 + 2


def test_weights_count_once_and_those_left_out_not():
    first, second = nn.Linear(2, 3), nn.Linear(3, 5, bias=False)
    assert weight_bytes(first, second, first) == 4 * (2 * 3 + 3 + 3 * 5)
    assert weight_bytes(nn.Sequential(first, second), without=(second,)) == 4 * (2 * 3 + 3)


def test_a_floor_is_the_slower_of_computing_and_moving():
    assert Work(flops=1000, moved_bytes=1, dtype="float32").floor_seconds(machine()) == 10
    assert Work(flops=1, moved_bytes=500, dtype="float32").floor_seconds(machine()) == 50


def test_little_data_moves_as_fast_as_caches_allow():
    quick = machine(b10=100.0, b100=50.0, b1000=5.0)
    assert [quick.bandwidth_for(size) for size in (1, 10, 99, 100, 5000)] == [100, 100, 100, 50, 5]
    assert quick.bandwidth == 5
    launching = machine(b10=1.0, b1000=20.0)  # small copies take the time of a call: memory can do better
    assert launching.bandwidth_for(10) == 20


def test_the_best_of_several_measurements_and_how_far_they_are_apart():
    measured = [machine(100.0, b10=1.0), machine(50.0, b10=3.0)]
    assert best_of(measured).matrix_rates == {"float32": 100.0}
    assert best_of(measured).copy_rates == {10: 3.0}
    assert unsteadiness(measured) == 2


def test_this_machine_has_rates():
    found = measure_machine(CPU, [torch.float32, torch.float32], repeats=1)
    assert set(found.matrix_rates) == {"float32"}
    assert found.matrix_rates["float32"] > 1e8
    assert found.bandwidth > 1e7
    assert found.device == "cpu"
    assert found.name


def test_memory_at_the_peak(assistant):
    weights = model_bytes(assistant.model)

    def run() -> None:
        kept = torch.zeros(1000)
        del kept
        both = [torch.zeros(1000), torch.zeros(500)]
        del both

    assert peak_of(run, assistant.model) == (weights + 6000, "tensors")
