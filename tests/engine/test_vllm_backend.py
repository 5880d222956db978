"""vLLM as a back end, over a stand-in with vLLM's documented interface: it says what Groma's own decoder says.

`scripts/verify_vllm.py` does the same with vLLM itself.
"""

import json
import re
import shutil
import threading
import time
from dataclasses import replace
from itertools import chain
from multiprocessing import get_context

import fake_vllm
import pytest
import torch

import groma
from groma.cli.serve import Serve
from groma.convert.export import export_language
from groma.engine import vllm_backend
from groma.engine.engine import Engine
from groma.engine.vllm_backend import MAX_SCORED, VLLMBackend
from groma.errors import CheckpointError, GromaError, InputError, MissingExtraError
from groma.inference.constraint import AnswerState, is_well_formed
from groma.inference.decoder import Failed, Said, decode
from groma.inference.generate import Decoding
from small_models import assert_same, endless_groma, picture, small_groma
from spoken_prompts import answers, own_decoder, prompts, silent_ids, token_ids

FAMILIES = {
    "llama": {"seed": 2},
    "qwen2": {"seed": 7, "model_type": "qwen2", "tie_word_embeddings": True},
    "gemma": {"seed": 7, "model_type": "gemma", "head_dim": 8},
}
"""With seeds whose models name regions."""
RUNNERS = {"first": "0", "second": "1"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A model and its export."""
    model = small_groma(**FAMILIES[request.param])
    return model, exported(model, tmp_path_factory.mktemp(request.param) / "out")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    model = endless_groma(seed=2)
    return model, exported(model, tmp_path_factory.mktemp("llama") / "out")


def exported(model, folder):
    export_language(model.model, model.tokenizer, folder, source="small")
    return folder


@pytest.fixture(autouse=True, params=RUNNERS)
def vllm(request, monkeypatch):
    """Every test runs with both model runners."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", RUNNERS[request.param])
    fake_vllm.install(monkeypatch)


def backend(model, folder, **options) -> VLLMBackend:
    return VLLMBackend(
        folder,
        tokens=model.tokenizer.special,
        stop_ids=model.stop_ids,
        silent_ids=silent_ids(model),
        options=options,
    )


def assert_same_answers(some, others):
    assert [token_ids(row) for row in some] == [token_ids(row) for row in others]
    for one, other in zip(chain(*some), chain(*others), strict=True):
        assert (one.region_probabilities is None) == (other.region_probabilities is None)
        if one.region_probabilities is not None:
            assert one.region_probabilities == pytest.approx(other.region_probabilities, abs=1e-4)


def test_it_says_what_the_own_decoder_says(family):
    model, folder = family
    given = prompts(model, [Decoding(max_new_tokens=n) for n in (24, 24, 3, 7, 1)])
    said = answers(backend(model, folder), given)
    assert_same_answers(said, answers(own_decoder(model), given))
    assert any(one.region_probabilities for row in said for one in row), "no region was named: the test shows nothing"


def test_without_the_grammar_it_also_does(family):
    model, folder = family
    free = prompts(model, [Decoding(max_new_tokens=16, constrained=False)] * 3)
    free = [replace(prompt, num_regions=number) for number, prompt in enumerate(free)]  # others can be named
    said = answers(backend(model, folder), free)
    assert_same_answers(said, answers(own_decoder(model), free))
    bound = answers(backend(model, folder), [replace(one, decoding=Decoding(max_new_tokens=16)) for one in free])
    assert [token_ids(row) for row in said] != [token_ids(row) for row in bound], "the grammar changes nothing"


def test_the_embedded_model_says_the_same(tmp_path):
    model = groma.load("groma-tiny", device="cpu")
    folder = exported(model, tmp_path / "tiny")
    given = prompts(model, [Decoding(max_new_tokens=24)] * 2)
    assert_same_answers(answers(backend(model, folder), given), answers(own_decoder(model), given))


def test_the_assistant_answers_with_it_as_with_its_own(llama, monkeypatch):
    model, folder = llama
    decoding = Decoding(max_new_tokens=16)
    expected = model.ask([picture(1), picture(2)], "Where is the dog?", decoding=decoding)
    engine = backend(model, folder)
    monkeypatch.setattr(model, "decoder", lambda prefixes=None: engine)
    answered = model.ask([picture(1), picture(2)], "Where is the dog?", decoding=decoding)
    for one, other in zip(answered, expected, strict=True):
        assert_same(one, other)


def test_the_engine_answers_with_it_as_the_plain_call(llama):
    model, folder = llama
    decoding = Decoding(max_new_tokens=12)
    questions = ["Where is the dog?", "What?", "Locate the red dog."]
    expected = [model.ask(picture(number), text, decoding=decoding) for number, text in enumerate(questions)]
    with Engine(model, backend=lambda prefixes: backend(model, folder)) as engine:
        jobs = [
            engine.question(engine.picture(picture(n)), text, decoding=decoding) for n, text in enumerate(questions)
        ]
        answered = [ticket.result(60) for ticket in [engine.submit(job) for job in jobs]]
    for one, other in zip(answered, expected, strict=True):
        assert_same(one.answer, other)


def test_answers_join_and_leave_between_steps(llama):
    model, folder = llama
    given = prompts(model, [Decoding(max_new_tokens=20)] * 4)
    alone = [token_ids(row) for row in answers(own_decoder(model), given)]
    engine = backend(model, folder)
    said: dict[int, list[int]] = {}

    def step():
        for key, one in engine.step().items():
            said.setdefault(key, []).append(one.token_id)

    engine.add(10, given[0])
    engine.add(11, given[1])
    for _ in range(3):
        step()
    engine.add(12, given[2])
    step()
    engine.drop(10)
    assert engine.running == 2 and len(engine._engine().batch) == 2, "vLLM still works on what nobody wants"
    engine.drop(10)
    engine.add(13, given[3])
    while engine.running:
        step()
    assert said[10] == alone[0][:4] and [said[key] for key in (11, 12, 13)] == alone[1:]
    assert engine.step() == {}, "nobody is there"


def test_prompts_read_in_parts_and_answers_that_wait_change_nothing(llama):
    model, folder = llama
    given = prompts(model, [Decoding(max_new_tokens=12)] * 5)
    slow = backend(model, folder, max_num_batched_tokens=16, max_num_seqs=2)
    assert_same_answers(answers(slow, given), answers(own_decoder(model), given))


def test_answers_that_are_set_aside_or_change_places_keep_their_grammar(llama):
    model, folder = llama
    given = prompts(model, [Decoding(max_new_tokens=20)] * 3)
    expected = [token_ids(row) for row in answers(own_decoder(model), given)]
    assert len(expected[0]) > 6 and len(expected[1]) > 6
    engine = backend(model, folder)
    for key, prompt in enumerate(given):
        engine.add(key, prompt)
    said = [[], [], []]
    for number in range(100):
        if number == 4:
            engine._engine().set_aside("groma-1")
        if number == 6:
            engine._engine().swap(0, 1)
        for key, one in engine.step().items():
            said[key].append(one.token_id)
        if not engine.running:
            break
    assert said == expected


def test_sampled_answers_are_well_formed_and_follow_their_seed(llama):
    model, folder = llama
    decodings = [Decoding(max_new_tokens=25, temperature=1.3, top_p=0.95, seed=seed) for seed in (1, 2, 3, 4)]
    given = prompts(model, decodings)
    said = [token_ids(row) for row in answers(backend(model, folder), given)]
    for prompt, row in zip(given, said, strict=True):
        state = AnswerState(model.tokenizer.special, prompt.num_regions, model.stop_ids, silent_ids(model))
        assert is_well_formed(row, state)
    assert said == [token_ids(row) for row in answers(backend(model, folder), given)]
    others = [replace(one, decoding=replace(one.decoding, seed=one.decoding.seed + 10)) for one in given]
    assert said != [token_ids(row) for row in answers(backend(model, folder), others)]


def test_temperatures_that_vllm_does_not_take(llama, monkeypatch):
    """It would make a low one 0.01, and refuse a high one."""
    model, folder = llama
    (prompt,) = prompts(model, [Decoding(max_new_tokens=12)])

    def sampling(temperature: float):
        changed = replace(prompt, decoding=Decoding(temperature=temperature, constrained=False))
        return backend(model, folder)._sampling(changed, 100)

    assert sampling(1e-7).temperature == 0
    for temperature in (0.005, 3.0):
        assert sampling(temperature).temperature == 1
        assert sampling(temperature).extra_args == {"groma_temperature": temperature}
    # what is done in place of vLLM is what vLLM would do
    for constrained in (True, False):
        hot = [replace(prompt, decoding=replace(Decoding(max_new_tokens=12, temperature=1.7), constrained=constrained))]
        monkeypatch.setattr(vllm_backend, "TEMPERATURES", (0.01, 2.0))
        expected = answers(backend(model, folder), hot)
        monkeypatch.setattr(vllm_backend, "TEMPERATURES", (0.01, 1.0))
        assert_same_answers(answers(backend(model, folder), hot), expected)


def test_sampling_from_hardly_any_token_says_the_likeliest(llama):
    model, folder = llama
    given = prompts(model, [Decoding(max_new_tokens=16)] * 2)
    narrow = [replace(one, decoding=replace(one.decoding, temperature=1.9, top_p=1e-6)) for one in given]
    assert_same_answers(answers(backend(model, folder), narrow), answers(own_decoder(model), given))


def test_no_answer_inherits_the_grammar_of_the_one_before(llama):
    model, folder = llama
    bound, free = prompts(model, [Decoding(max_new_tokens=12), Decoding(max_new_tokens=12, constrained=False)])
    engine = backend(model, folder, max_num_seqs=1)
    (expected,) = answers(own_decoder(model), [free])
    assert token_ids(expected) != token_ids(answers(own_decoder(model), [replace(free, decoding=bound.decoding)])[0])
    answers(engine, [bound])
    assert_same_answers(answers(engine, [free]), [expected])


def test_an_answer_that_vllm_gives_up_is_told(llama, monkeypatch):
    model, folder = llama
    engine = backend(model, folder)
    given = prompts(model, [Decoding(max_new_tokens=20)] * 2)
    (expected,) = answers(own_decoder(model), given[:1])
    reason = fake_vllm.LLMEngine._reason

    def second_breaks(self, request):
        return "error" if request.name == "groma-1" and request.token_ids else reason(self, request)

    monkeypatch.setattr(fake_vllm.LLMEngine, "_reason", second_breaks)
    for key, prompt in enumerate(given):
        engine.add(key, prompt)
    said = {0: [], 1: []}
    while engine.running:
        for key, one in engine.step().items():
            said[key].append(one)
    assert [one.token_id for one in said[0]] == token_ids(expected), "the other answer was disturbed"
    assert isinstance(said[1][-1], Failed) and "gave up an answer" in str(said[1][-1].error)
    assert all(isinstance(one, Said) for one in said[1][:-1]) and len(said[1]) == 2
    monkeypatch.setattr(fake_vllm.LLMEngine, "_reason", lambda self, request: "error")
    with pytest.raises(GromaError, match="gave up an answer"):
        list(decode(engine, given[:1]))


def test_the_command_passes_vllm_its_options(llama):
    model, folder = llama
    given = ("gpu_memory_utilization=0.5", "enforce_eager=true", "max_num_seqs=3", 'model_impl="a b"')
    backend = Serve(vllm=folder, vllm_option=given)._backend(model)
    arguments = backend(None)._engine().arguments
    wanted = {"gpu_memory_utilization": 0.5, "enforce_eager": True, "max_num_seqs": 3, "model_impl": "a b"}
    assert {name: getattr(arguments, name) for name in wanted} == wanted
    with pytest.raises(InputError, match="does not take these options"):
        Serve(vllm=folder, vllm_option=("memory=1",))._backend(model)
    with pytest.raises(InputError, match="must not set model"):
        Serve(vllm=folder, vllm_option=("model=x",))._backend(model)


def test_closed_it_can_be_given_others(llama):
    model, folder = llama
    engine = backend(model, folder)
    given = prompts(model, [Decoding(max_new_tokens=8)] * 2)
    expected = answers(own_decoder(model), given)
    for ending in (engine.close, engine.shut_down):
        engine.add(0, given[1])
        engine.step()
        ending()
        ending()
        assert engine.running == 0 and engine.step() == {}
        assert_same_answers(answers(engine, given), expected)


def test_after_a_failure_of_vllm_s_it_is_started_anew(llama, monkeypatch):
    model, folder = llama
    engine = backend(model, folder)
    (prompt,) = prompts(model, [Decoding(max_new_tokens=8)])
    engine.add(0, prompt)

    def die(self):
        raise RuntimeError("EngineCore encountered an issue")

    with monkeypatch.context() as broken:
        broken.setattr(fake_vllm.LLMEngine, "step", die)
        (failed,) = engine.step().values()
    assert str(failed.error).startswith("vLLM failed (EngineCore encountered an issue)")
    assert engine.running == 0 and engine._watched is None
    assert_same_answers(answers(engine, [prompt]), answers(own_decoder(model), [prompt]))


def test_a_process_of_vllm_s_that_is_killed_is_not_waited_for(llama, monkeypatch):
    """In a step, which then never ends, and between two answers, which costs nobody anything."""
    model, folder = llama
    started, make, go_on = [], fake_vllm.LLMEngine.from_engine_args, fake_vllm.LLMEngine.step
    context = get_context("spawn")

    def start(arguments):
        started.append(context.Process(target=time.sleep, args=(100,), daemon=True))
        started[-1].start()
        return make(arguments)

    def step(self):
        if not started[-1].is_alive():
            threading.Event().wait()
        return go_on(self)

    monkeypatch.setattr(fake_vllm.LLMEngine, "from_engine_args", start)
    monkeypatch.setattr(fake_vllm.LLMEngine, "step", step)
    engine, given = backend(model, folder), prompts(model, [Decoding(max_new_tokens=8)] * 2)
    expected = answers(own_decoder(model), given)
    for key, prompt in enumerate(given):
        engine.add(key, prompt)
    engine.step()
    end(started[-1])
    failed = engine.step()
    assert [str(failed[key].error).startswith("vLLM failed (process ") for key in (0, 1)] == [True, True]
    for _ in range(2):
        assert_same_answers(answers(engine, given), expected)
        end(started[-1])
    assert len(started) == 3


def end(process):
    process.kill()
    process.join()


def test_what_was_read_before_is_told_with_the_first_token(llama):
    model, folder = llama
    (prompt,) = prompts(model, [Decoding(max_new_tokens=5)])
    (row,) = answers(backend(model, folder), [prompt])
    assert [one.cached_tokens for one in row] == [len(prompt) // 2, *[0] * (len(row) - 1)]


def refusal(kind: type[GromaError], model, folder, **options) -> str:
    with pytest.raises(kind) as caught:
        backend(model, folder, **options)
    assert re.fullmatch(r"[^\n]+\.", str(caught.value))
    return str(caught.value)


def test_options_that_answers_depend_on_are_refused(llama):
    assert "enable_prompt_embeds" in refusal(InputError, *llama, enable_prompt_embeds=False)
    assert "speculative_config" in refusal(InputError, *llama, speculative_config={"method": "ngram"})
    assert "max_num_sequences" in refusal(InputError, *llama, max_num_sequences=3)
    assert "dtype" in refusal(InputError, *llama, dtype="auto")


def test_other_folders_are_refused(llama, tmp_path):
    model, folder = llama
    assert "export-language" in refusal(CheckpointError, model, tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "groma" / "export.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"num_regions": told["num_regions"] + 1}))
    assert "another model" in refusal(CheckpointError, model, tmp_path / "copy")
    path.write_text(json.dumps(told | {"format": 99}))
    assert "format 99" in refusal(CheckpointError, model, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["gemma2", "cohere"])
def test_families_that_vllm_always_ties_are_refused(llama, kind, tmp_path):
    model, folder = llama
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))
    assert kind in refusal(InputError, model, tmp_path / "copy")


def test_more_regions_than_vllm_scores_are_refused(llama, tmp_path):
    model, folder = llama
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "groma" / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_regions": MAX_SCORED + 1}))
    special = model.tokenizer.special
    more = type(special).after(
        special.base_vocab_size, num_regions=MAX_SCORED + 1, bos=special.bos, eos=special.eos, unk=special.unk
    )
    with pytest.raises(InputError, match=str(MAX_SCORED)):
        VLLMBackend(tmp_path / "copy", tokens=more, stop_ids=model.stop_ids, silent_ids=silent_ids(model))


def test_an_answer_is_cut_where_the_context_ends_but_well_formed(llama):
    model, folder = llama
    (prompt,) = prompts(model, [Decoding(max_new_tokens=20)])
    (expected,) = answers(own_decoder(model), [replace(prompt, decoding=Decoding(max_new_tokens=7))])
    (row,) = answers(backend(model, folder, max_model_len=len(prompt) + 7), [prompt])
    assert_same_answers([row], [expected])
    with pytest.raises(InputError, match="max_model_len"):
        backend(model, folder, max_model_len=len(prompt)).add(0, prompt)


def test_what_vllm_refuses_is_told(llama, monkeypatch):
    model, folder = llama
    (prompt,) = prompts(model, [Decoding(max_new_tokens=5)])
    monkeypatch.setattr(vllm_backend, "TEMPERATURES", (0.0, 9.0))
    with pytest.raises(InputError, match=r"^vLLM refuses the request: temperature must be"):
        backend(model, folder).add(0, replace(prompt, decoding=Decoding(temperature=3.0)))


def test_without_vllm_the_extra_is_named(llama, monkeypatch):
    for name in [name for name in fake_vllm.sys.modules if name.split(".")[0] == "vllm"]:
        monkeypatch.delitem(fake_vllm.sys.modules, name)
    with pytest.raises(MissingExtraError, match=re.escape("groma[vllm]")):
        backend(*llama)


def test_the_prompts_of_the_tests_are_worth_it(llama):
    """Embeddings of image and region tokens are no rows of the table."""
    model, _ = llama
    (prompt,) = prompts(model, [Decoding(max_new_tokens=20)])
    words = model.model.language.embed(prompt.token_ids)
    same = (words == prompt.embeddings).all(-1)
    assert torch.equal(same, prompt.feature_index == -1) and not same.all()


def test_vllm_that_died_is_started_anew_and_nobody_waits_for_it(llama, monkeypatch):
    model, folder = llama
    engine = backend(model, folder)
    given = prompts(model, [Decoding(max_new_tokens=8)])
    expected = answers(own_decoder(model), given)
    engine.add(5, given[0])
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine._engine(), "add_request", lambda *_: (_ for _ in ()).throw(RuntimeError("engine is dead")))
        with pytest.raises(GromaError, match="vLLM failed"):
            engine.add(0, given[0])
    assert isinstance(engine.step()[5], Failed) and engine.running == 0, "who was answered waits for ever"
    assert_same_answers(answers(engine, given), expected)
