"""Random weights of any size without a checkpoint, and refusals before anything is made."""

import json
from dataclasses import replace

import pytest
import torch

from groma.bench import sizes
from groma.bench.sizes import (
    check_fits,
    count_parameters,
    find_device,
    find_dtype,
    needed_bytes,
    random_assistant,
    size_config,
)
from groma.cli.bench import Bench
from groma.cli.loading import Placement
from groma.errors import CheckpointError, InputError
from groma.inference.generate import Decoding
from small_models import picture, small_config

CPU = torch.device("cpu")
QUICK = Bench(size="tiny", batch_size=1, repeats=1, new_tokens=2)


@pytest.fixture(scope="module")
def wide():
    """Small, but with a vocabulary that holds the words of WORDS_OF."""
    return small_config(vocab_size=2000)


def test_sizes_are_as_large_as_they_are_called():
    assert count_parameters(size_config("tiny")) == pytest.approx(11.4e6, rel=0.02)
    assert count_parameters(size_config("base")) == pytest.approx(447e6, rel=0.02)
    assert count_parameters(size_config("7b")) == pytest.approx(7.38e9, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_answer(wide, dtype):
    assistant = random_assistant(wide, device=CPU, dtype=dtype)
    kinds = {name: {p.dtype for p in part.parameters()} for name, part in assistant.model.named_children()}
    assert kinds == {name: {dtype} for name in kinds} | {"proposer": {torch.float32}}
    answer = assistant.ask(picture(), "What is it?", decoding=Decoding(max_new_tokens=4))
    assert len(answer.regions) == assistant.max_regions  # as many as there is room for
    assert wide.selection.score_threshold != 0  # the caller's own stays


def test_the_same_seed_is_the_same_model(wide):
    one, same, other = (
        random_assistant(wide, device=CPU, dtype=torch.float32, seed=seed).model.projector.hidden.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.get_default_dtype() == torch.float32


def test_a_chat_template_is_replaced():
    config = small_config(vocab_size=2000, chat_format="chat_template")
    assert random_assistant(config, device=CPU, dtype=torch.float32).chat_format is not None


def test_a_vocabulary_that_is_too_small():
    with pytest.raises(InputError, match="the tokenizer has 1024 tokens"):
        random_assistant(small_config(vocab_size=300), device=CPU, dtype=torch.float32)


def test_what_does_not_fit_is_refused(monkeypatch):
    config = size_config("7b")
    shape = {"pictures": 1, "new_tokens": 64}
    assert needed_bytes(config, torch.float32, **shape) > 4 * 7.3e9
    assert needed_bytes(config, torch.float32, **shape) == 2 * needed_bytes(config, torch.bfloat16, **shape)
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 24 << 30)
    with pytest.raises(InputError, match=r"7b needs about \d+\.\d GiB in float32 for 1 pictures .* has 24.0 GiB free"):
        check_fits(config, torch.float32, CPU, what="7b", **shape)
    check_fits(size_config("tiny"), torch.float32, CPU, what="tiny", **shape)
    monkeypatch.setattr(sizes, "free_bytes", lambda device: None)
    check_fits(config, torch.float32, CPU, what="7b", **shape)  # nobody knows


def test_devices_and_types(wide):
    assert find_device("cpu") == CPU
    assert find_dtype(None, wide, CPU) == torch.float32
    assert find_dtype(None, size_config("7b"), torch.device("cuda")) == torch.bfloat16
    with pytest.raises(InputError, match="no device 'nowhere'"):
        find_device("nowhere")
    with pytest.raises(InputError, match="meta device"):
        find_device("meta")
    with pytest.raises(InputError, match="random weights are not stored"):
        find_dtype("stored", wide, CPU)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rough_rates")
def test_the_command_prints_one_json_value_and_writes_it(capsys, tmp_path, wide):
    architecture = tmp_path / "config.json"
    architecture.write_text(json.dumps(wide.to_diff_dict()))
    out = tmp_path / "bench.json"
    command = replace(QUICK, size=str(architecture), json=True, out=out, placement=Placement(device="cpu"))
    assert command.run() == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert printed["configuration"]["weights"] == "random"
    assert printed["configuration"]["regions"] == wide.selection.max_regions


@pytest.mark.usefixtures("rough_rates")
def test_the_command_prints_tables(capsys, tmp_path, wide):
    architecture = tmp_path / "config.json"
    architecture.write_text(json.dumps(wide.to_diff_dict()))
    assert replace(QUICK, size=str(architecture)).run() == 0
    assert "whole answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model": "groma-tiny"}, InputError, "a model or --size, not both"),
        ({"size": "huge"}, InputError, "no size 'huge'"),
        ({"size": "absent.json"}, InputError, "no such file"),
        ({"size": None, "model": "absent"}, CheckpointError, "absent is no folder"),
        ({"batch_size": 0}, InputError, "--batch-size must be at least 1"),
        ({"seed": -1}, InputError, "--seed must be"),
        ({"placement": Placement(device="nowhere")}, InputError, "no device"),
        ({"placement": Placement(dtype="stored")}, InputError, "not stored"),
        ({"new_tokens": 5000}, InputError, "context has 1024 tokens"),
        ({"batch_size": 10**9}, InputError, "GiB free"),
    ],
)
@pytest.mark.usefixtures("rough_rates")
def test_the_command_refuses(change, error, says):
    with pytest.raises(error, match=says):
        replace(QUICK, **change).run()


def test_the_command_refuses_where_it_cannot_write(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        replace(QUICK, out=tmp_path / "absent" / "bench.json").run()
