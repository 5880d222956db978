"""From requests to prompts: which regions a picture has for a conversation, and what the language model reads.

    seen picture, exchange --select, encode--> regions --render, splice--> Prompt, and the Transcript it goes to

A conversation's first turn decides on the regions, as published. A box of a later turn gets the next number and
stands, with what it shows, in the question alone: what was read before stays as it was, so that a turn costs only its
own tokens (docs/deviations.md).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy_px, to_tuples
from groma.errors import InputError
from groma.inference.decoder import Prompt
from groma.inference.generate import Decoding
from groma.inference.pictures import Seen
from groma.inference.prefix import quantized, signature
from groma.inference.request import BoxesMergedWarning
from groma.inference.result import GroundedAnswer, Region
from groma.inference.transcript import Transcript
from groma.inference.turns import Exchange, located
from groma.model.groma import GromaModel, PictureTokens, VisualTokens
from groma.model.selection import add_regions, match_regions
from groma.model.splice import Spliced, pad, splice
from groma.prompt.chat_format import ChatFormat
from groma.prompt.render import fit
from groma.prompt.tokenizer_base import PromptTokenizer

REMEMBERED = 4
"""Choices of regions that a seen picture remembers: conversations about it that point at other boxes first."""


@dataclass(frozen=True, slots=True)
class Request:
    """A question about a picture."""

    seen: Seen
    exchange: Exchange
    decoding: Decoding = Decoding()  # noqa: RUF009  # frozen
    at_least: int | None = None
    """tokens for which there must be room; the answer is cut where the context ends. None: all that it may have"""

    def finish(self, answer: GroundedAnswer) -> GroundedAnswer:
        """The answer as the user gets it."""
        exchange = self.exchange
        return answer if exchange.looked_for is None else located(answer, exchange.looked_for, all=exchange.all)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be answered."""

    request: Request
    prompt: Prompt
    transcript: Transcript
    """collects what is said"""

    @property
    def answer(self) -> GroundedAnswer:
        """The answer as far as it was said, as the user gets it."""
        return self.request.finish(self.transcript.answer())


@dataclass(frozen=True, slots=True)
class Preparer:
    """Makes prompts for one model."""

    model: GromaModel
    tokenizer: PromptTokenizer
    chat_format: ChatFormat
    stop_ids: frozenset[int]

    @torch.inference_mode()
    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        """Tokenize the pictures with the questions' boxes, render, splice.

        Raises:
            InputError: a conversation is too long for the model.
        """
        visual = self._tokenize(requests)
        return [self._prepared(request, seen) for request, seen in zip(requests, visual, strict=True)]

    def _prepared(self, request: Request, visual: VisualTokens) -> Prepared:
        regions = regions_of(visual, request.seen, request.exchange.asked_boxes_cxcywh)
        _warn_of_merged(regions)
        transcript = Transcript(
            self.tokenizer,
            self.stop_ids,
            question=request.exchange.question,
            regions=regions,
            image_size_px=request.seen.size_px,
            grounded=request.exchange.grounded,
        )
        return Prepared(request, self.prompt(request, visual), transcript)

    def prompt(self, request: Request, visual: VisualTokens) -> Prompt:
        """What the language model reads.

        Raises:
            InputError: the conversation is too long for the model.
        """
        wanted = request.decoding.max_new_tokens
        spliced = self._splice(request.exchange, visual, min(wanted, request.at_least or wanted))
        decoding = replace(
            request.decoding, max_new_tokens=min(wanted, self.model.config.context_tokens - len(spliced.ids))
        )
        batch = pad([spliced], pad_id=self.tokenizer.special.pad, side="left").to(visual.features.device)
        return Prompt(
            embeddings=self.model.embed(batch, [visual])[0],
            token_ids=spliced.ids,
            feature_index=spliced.feature_index,
            num_regions=len(visual.regions),
            decoding=decoding,
            signature=signature(
                spliced,
                picture=request.seen.number,
                num_image_tokens=self.model.config.num_image_tokens,
                boxes_cxcywh=visual.regions.boxes_cxcywh,
            ),
        )

    @torch.inference_mode()
    def without_boxes(self, seen: Seen) -> VisualTokens:
        """A picture's tokens for a conversation that points at nothing."""
        return self._listed([seen], [torch.zeros(0, 4)])[0]

    # --- regions -----------------------------------------------------------------------------------------------------

    def _tokenize(self, requests: Sequence[Request]) -> list[VisualTokens]:
        """Image tokens and region tokens of each request."""
        visual = self._listed([r.seen for r in requests], [r.exchange.listed_boxes_cxcywh for r in requests])
        for place, (request, chosen) in enumerate(zip(requests, visual, strict=True)):
            added = request.exchange.added_boxes_cxcywh
            if len(added):
                visual[place] = self._with_added(request, chosen, added)
        return visual

    def _listed(self, pictures: Sequence[Seen], boxes_cxcywh: Sequence[Tensor]) -> list[VisualTokens]:
        """With the regions that stand at the beginning, each choice worked out once for a picture."""
        keys = [quantized(boxes).numpy(force=True).tobytes() for boxes in boxes_cxcywh]
        wanted = [(seen, key) for seen, key in zip(pictures, keys, strict=True)]
        new = {
            (seen.number, key): (seen, key, boxes)
            for (seen, key), boxes in zip(wanted, boxes_cxcywh, strict=True)
            if key not in seen.choices
        }
        chosen = {(seen.number, key): seen.choices[key] for seen, key in wanted if key in seen.choices}
        if new:
            seen = list({one.number: one for one, _, _ in new.values()}.values())
            numbers = {one.number: place for place, one in enumerate(seen)}
            fresh = self.model.tokenize(
                PictureTokens.join([one.tokens for one in seen]),
                numbers=[numbers[one.number] for one, _, _ in new.values()],
                user_boxes_cxcywh=[boxes for _, _, boxes in new.values()],
            )
            for (one, key, _), visual in zip(new.values(), fresh, strict=True):
                one.remember(key, visual, limit=REMEMBERED)
                chosen[one.number, key] = visual
        return [chosen[one.number, key] for one, key in wanted]

    def _with_added(self, request: Request, chosen: VisualTokens, boxes_cxcywh: Tensor) -> VisualTokens:
        """With the boxes of later turns as further regions; if no numbers are left, all are chosen anew."""
        config = self.model.config.selection
        regions = add_regions(chosen.regions, boxes_cxcywh, config)
        if len(regions) > config.max_regions:
            return self._listed([request.seen], [request.exchange.user_boxes_cxcywh])[0]
        new = regions.boxes_cxcywh[len(chosen.regions) :]
        tokens = self.model.region_encoder.encode(request.seen.tokens.levels, [new])[0]
        return VisualTokens(regions=regions, features=torch.cat((chosen.features, tokens)))

    # --- prompts -----------------------------------------------------------------------------------------------------

    def _splice(self, exchange: Exchange, visual: VisualTokens, answer_tokens: int) -> Spliced:
        """Render the dialogue and put the picture into it, leaving room for the answer.

        Raises:
            InputError: the conversation is too long for the model.
        """
        config, num_listed = self.model.config, visual.regions.num_listed
        picture_tokens = config.num_image_tokens + 2 * num_listed
        room = config.context_tokens - picture_tokens - answer_tokens
        if room <= 0:
            raise InputError(
                f"the model's context has {config.context_tokens} tokens, of which the picture takes {picture_tokens} "
                f"and the answer may take {answer_tokens}: allow a shorter answer (max_new_tokens; in HTTP max_tokens)"
            )
        # the prompt's own <image> and <region> make way for the picture's tokens
        try:
            rendered = fit(exchange.dialogue, self.tokenizer, self.chat_format, max_tokens=room + 2)
        except InputError as error:
            told = f"{error}; {answer_tokens} tokens are left for the answer (max_new_tokens; over HTTP max_tokens)"
            raise InputError(told) from None
        device = visual.regions.boxes_cxcywh.device
        matched = match_regions(exchange.boxes_cxcywh.to(device), visual.regions).cpu()
        return splice(
            rendered.token_ids,
            None,
            refer_regions=matched[list(rendered.refer_slots)],
            ground_regions=matched[list(rendered.ground_slots)],
            num_image_tokens=config.num_image_tokens,
            num_regions=num_listed,
            tokens=self.tokenizer.special,
        )


def regions_of(visual: VisualTokens, seen: Seen, asked_cxcywh: Tensor) -> tuple[Region, ...]:
    """The kept regions in pixels, and by which numbers the question names them."""
    kept = visual.regions
    named: list[int] = match_regions(asked_cxcywh.to(kept.scores.device), kept).numpy(force=True).tolist()
    boxes_xyxy_px = to_tuples(cxcywh_to_xyxy_px(kept.boxes_cxcywh.float(), *seen.size_px))
    scores: list[float] = kept.scores.float().numpy(force=True).tolist()
    from_user: list[bool] = kept.from_user.numpy(force=True).tolist()
    rows = zip(boxes_xyxy_px, scores, from_user, strict=True)
    return tuple(
        Region(
            id=number,
            box_xyxy_px=box_xyxy_px,
            objectness=score,
            source="user" if is_user else "proposal",
            numbers=tuple(k for k, region in enumerate(named, start=1) if region == number),
        )
        for number, (box_xyxy_px, score, is_user) in enumerate(rows)
    )


def _warn_of_merged(regions: Sequence[Region]) -> None:
    """Tell if two boxes of a question became one region: the answer cannot tell them apart."""
    for first, *others in (region.numbers for region in regions if len(region.numbers) > 1):
        for number in others:
            warnings.warn(
                f"boxes [{first}] and [{number}] overlap so much that they are one region for the model",
                BoxesMergedWarning,
                stacklevel=2,
            )
