"""Compare the vLLM back end with Groma's own decoder, with vLLM itself: run it where vLLM is installed (docs/vllm.md).

    python scripts/verify_vllm.py examples/scene.png --model groma-tiny --work out/vllm

The language model is exported, questions are asked about the picture, alone and many at once, and every token and
region score is compared. Nothing here runs in the tests: they use a stand-in with vLLM's interface.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import groma
from groma.convert.export import export_language, silent_ids
from groma.engine.vllm_backend import VLLMBackend
from groma.inference.assistant import Groma
from groma.inference.constraint import AnswerState, is_well_formed
from groma.inference.decoder import Backend, Decoder, Prompt, Said, decode
from groma.inference.generate import Decoding
from groma.inference.preparing import Request
from groma.inference.turns import asking, locating

QUESTIONS = (
    "Describe the image in detail.",
    "What is in the picture?",
    "Where is the turtle?",
    "Which is larger, the bicycle or the turtle?",
)
TOLERANCE = 2e-2
"""Of a region's probability: the two compute in another order."""


def prompts(model: Groma, picture: Path, limit: int) -> list[Prompt]:
    """Questions about a picture, of both kinds."""
    seen = model.see(picture)
    size, most = seen.size_px, model.max_regions
    exchanges = [asking(q, None, size_px=size, max_regions=most, grounded=True, history=()) for q in QUESTIONS]
    exchanges += [locating(phrase, all=False) for phrase in ("the cyan turtle", "the bicycle", "the elephant")]
    decoding = Decoding(max_new_tokens=limit)
    return [one.prompt for one in model.prepare([Request(seen, exchange, decoding) for exchange in exchanges])]


def answers(backend: Backend, given: Sequence[Prompt]) -> list[list[Said]]:
    """What a back end says to each, all asked together."""
    said: list[list[Said]] = [[] for _ in given]
    for step in decode(backend, given):
        for number, one in step.items():
            said[number].append(one)
    return said


def compare(what: str, ours: Sequence[Sequence[Said]], theirs: Sequence[Sequence[Said]]) -> bool:
    """Print how many answers are equal, and the largest difference of a region's probability in those."""
    equal, furthest, scored = 0, 0.0, 0
    for mine, other in zip(ours, theirs, strict=True):
        if [one.token_id for one in mine] != [one.token_id for one in other]:
            print(f"  differs: {[one.token_id for one in mine]}\n           {[one.token_id for one in other]}")
            continue
        equal += 1
        for one, two in zip(mine, other, strict=True):
            if one.region_probabilities is not None and two.region_probabilities is not None:
                scored += 1
                pairs = (abs(p - two.region_probabilities[r]) for r, p in one.region_probabilities.items())
                furthest = max(furthest, *pairs)
    tokens = sum(map(len, ours))
    read = sum(one.cached_tokens for row in theirs for one in row)
    found = f"{tokens} tokens, {scored} regions named, off by {furthest:.1e}"
    print(f"{what}: {equal} of {len(ours)} answers equal, {found}, {read} tokens of prompts known before")
    return equal == len(ours) and furthest < TOLERANCE


def check(model: Groma, backend: VLLMBackend, given: list[Prompt]) -> bool:
    """All comparisons."""
    own = Decoder(
        model.model,
        tokens=model.tokenizer.special,
        stop_ids=model.stop_ids,
        silent_ids=silent_ids(model.tokenizer),
    )
    expected = answers(own, given)
    good = compare("one by one", expected, [answers(backend, [prompt])[0] for prompt in given])
    began = time.perf_counter()
    good &= compare("all at once", expected, answers(backend, given))
    print(f"  in {time.perf_counter() - began:.2f} s")
    free = [replace(prompt, decoding=replace(prompt.decoding, constrained=False)) for prompt in given]
    good &= compare("without the grammar", answers(own, free), answers(backend, free))
    for limit in (2, 3, 5, 9):
        short = [replace(prompt, decoding=replace(prompt.decoding, max_new_tokens=limit)) for prompt in given]
        good &= compare(f"at most {limit} tokens", answers(own, short), answers(backend, short))
    few = [replace(prompt, num_regions=2) for prompt in given]
    good &= compare("two regions exist", answers(own, few), answers(backend, few))
    backend.add(0, given[0])
    backend.add(1, given[1])
    heard = [one.token_id for _ in range(3) for key, one in backend.step().items() if key == 1]
    backend.drop(0)
    while backend.running:
        heard += [one.token_id for one in backend.step().values()]
    left = heard == [one.token_id for one in expected[1]]
    print(f"one leaves: the other {'goes on' if left else 'is disturbed'}")
    hot = [
        replace(p, decoding=replace(p.decoding, temperature=temperature, seed=seed))
        for seed, (p, temperature) in enumerate(zip(given, (1.5, 3.0) * len(given), strict=False))
    ]
    sampled = [[one.token_id for one in row] for row in answers(backend, hot)]
    starts = (
        AnswerState(model.tokenizer.special, p.num_regions, model.stop_ids, silent_ids(model.tokenizer)) for p in hot
    )
    formed = sum(is_well_formed(row, start) for row, start in zip(sampled, starts, strict=True))
    again = sampled == [[one.token_id for one in row] for row in answers(backend, hot)]
    print(f"sampled: {formed} of {len(hot)} well-formed, {'the same again' if again else 'other ones again'}")
    return good and left and formed == len(hot)


def main() -> None:
    """Export, start vLLM, compare; status 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", default="groma-tiny")
    parser.add_argument("--work", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--max-num-batched-tokens", type=int, help="small: prompts are read in parts")
    parser.add_argument("--block-size", type=int, help="of vLLM's cache: what prompts share is known in whole blocks")
    parser.add_argument("--enforce-eager", action="store_true", help="do not compile the model first")
    parser.add_argument(
        "--gpu-memory-utilization", type=float, help="share of the memory that vLLM takes, on CPUs, too"
    )
    arguments = parser.parse_args()
    import vllm

    print(f"vLLM {vllm.__version__}")
    model = groma.load(arguments.model, dtype="float32")
    export_language(model.model, model.tokenizer, arguments.work, source=arguments.model)
    names = ("max_num_seqs", "max_num_batched_tokens", "block_size", "enforce_eager", "gpu_memory_utilization")
    options = {name: getattr(arguments, name) for name in names}
    backend = VLLMBackend(
        arguments.work,
        tokens=model.tokenizer.special,
        stop_ids=model.stop_ids,
        silent_ids=silent_ids(model.tokenizer),
        options={name: option for name, option in options.items() if option is not None},
    )
    good = check(model, backend, prompts(model, arguments.picture, arguments.max_new_tokens))
    backend.shut_down()
    print("all equal" if good else "something differs")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
