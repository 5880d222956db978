"""Prompts about pictures of noise for the small models, and what Groma's own decoder answers."""

from collections.abc import Sequence

import torch

from groma.inference.assistant import Groma
from groma.inference.decoder import Backend, Decoder, Prompt, Said, decode
from groma.inference.generate import Decoding
from groma.model.splice import pad, splice
from groma.prompt.dialogue import Dialogue, Phrase, Text, Turn
from groma.prompt.render import fit
from small_models import picture

QUESTIONS = ("Locate the red dog in the image.", "Please briefly describe the two dogs.", "What?", "dog")


@torch.inference_mode()
def prompts(groma: Groma, decodings: Sequence[Decoding]) -> list[Prompt]:
    """One for each, about pictures and with questions of their own; every second one is grounded."""
    pixels = groma.preprocessing([picture(seed) for seed in range(len(decodings))])
    visual = groma.model.tokenize(groma.model.read(groma.model.perceive(pixels)))
    made = []
    for number, (seen, decoding) in enumerate(zip(visual, decodings, strict=True)):
        text = QUESTIONS[number % len(QUESTIONS)]
        turn = Turn(question=(Text(text), Phrase("a dog")), grounded=number % 2 == 0)
        rendered = fit(Dialogue((turn,)), groma.tokenizer, groma.chat_format, max_tokens=10**6)
        nothing = torch.zeros(0, dtype=torch.long)
        spliced = splice(
            rendered.token_ids,
            None,
            refer_regions=nothing,
            ground_regions=nothing,
            num_image_tokens=groma.model.config.num_image_tokens,
            num_regions=len(seen.regions),
            tokens=groma.tokenizer.special,
        )
        batch = pad([spliced], pad_id=groma.tokenizer.special.pad, side="left")
        made.append(
            Prompt(
                embeddings=groma.model.embed(batch, [seen])[0],
                token_ids=spliced.ids,
                feature_index=spliced.feature_index,
                num_regions=max(2, len(seen.regions) - 2 * number),  # the last exist for some answers only
                decoding=decoding,
            )
        )
    return made


def silent_ids(groma: Groma) -> frozenset[int]:
    return frozenset(i for i in range(groma.tokenizer.vocab_size) if not groma.tokenizer.token_bytes(i))


def own_decoder(groma: Groma) -> Decoder:
    return Decoder(groma.model, tokens=groma.tokenizer.special, stop_ids=groma.stop_ids, silent_ids=silent_ids(groma))


def answers(backend: Backend, given: Sequence[Prompt]) -> list[list[Said]]:
    """What a back end says to each, all asked together."""
    said: list[list[Said]] = [[] for _ in given]
    for step in decode(backend, given):
        assert step, "a step in which nobody says anything"
        for number, one in step.items():
            said[number].append(one)
    assert all(one.ended is (place == len(row)) for row in said for place, one in enumerate(row, start=1))
    return said


def token_ids(said: Sequence[Said]) -> list[int]:
    return [one.token_id for one in said]
