"""The one generation path: answers that grow side by side, and join and leave between two steps.

    add(key, prompt)  ->  prefill: the prompt is read, less what was read before (groma.inference.prefix)
    step()            ->  one token of every answer
    drop(key)             its place is free before the next step

T prompt tokens, D width, V + A vocabulary.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from groma.errors import GromaError
from groma.inference.constraint import AnswerState
from groma.inference.generate import Decoding, choose, region_probabilities
from groma.inference.prefix import Kept, PrefixStore
from groma.inference.row_cache import RowCache
from groma.model.groma import GromaModel
from groma.prompt.tokens import SpecialTokenIds

LOG = logging.getLogger("groma.inference")

NO_NUMBERS = "the language model's figures for this answer are no numbers (NaN): its weights or their type overflow"

MAX_PREFILL = 16_384
"""Tokens that are read in one go, padding included, unless a single prompt is longer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """What an answer begins with."""

    embeddings: Tensor
    """(T, D) input of the language model"""
    token_ids: Tensor
    """(T,) ids; those of image and region tokens stand for their embeddings"""
    feature_index: Tensor
    """(T,) -1 where the embedding is the id's own (groma.model.splice)"""
    num_regions: int
    """R: <r0> .. <rR-1> exist"""
    decoding: Decoding
    """how tokens are chosen"""
    signature: Tensor | None = None
    """(T,) int64 (groma.inference.prefix); None: nothing is kept of it"""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """One token of an answer."""

    token_id: int
    region_probabilities: dict[int, float] | None = None
    """if it names a region: region number -> probability, over the regions that exist, adding to 1"""
    ended: bool
    """whether it was the last: the answer's end, or its limit"""
    cached_tokens: int = 0
    """with an answer's first token: how many of its prompt had been read before"""
    logits: Tensor | None = None
    """(V + A,) float32, before constraint and sampling; None where a back end does not tell"""


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that cannot be given; it has left."""

    error: Exception


class Backend(Protocol):
    """What generates: the decoder below, or another engine (groma.engine.vllm_backend)."""

    def add(self, key: int, prompt: Prompt) -> None:
        """An answer that begins with the next step."""
        ...

    def step(self) -> dict[int, Said | Failed]:
        """One token of every answer, by key; those that ended have left. If it raises, all answers are lost."""
        ...

    def drop(self, key: int) -> None:
        """An answer that is no longer wanted; nothing happens if it has ended."""
        ...

    @property
    def running(self) -> int:
        """Answers that have not ended."""
        ...

    def close(self) -> None:
        """Let everything go."""
        ...


@dataclass(slots=True)
class _Row:
    """One answer that is being said."""

    key: int
    prompt: Prompt
    state: AnswerState
    generator: torch.Generator
    remaining: int
    """tokens that it may still say"""
    length: int = 0
    """tokens that were read, which have keys and values"""
    known: int = 0
    """tokens of the prompt that had been read before"""
    said: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True)
class _Newcomer:
    """An answer that begins."""

    key: int
    prompt: Prompt
    kept: Kept | None
    """what begins the same"""
    known: int
    """tokens of the prompt that need not be read again"""

    @property
    def new(self) -> int:
        return len(self.prompt) - self.known


class Decoder:
    """The back end over the model itself. Greedy decoding does not depend on who else is there."""

    def __init__(
        self,
        model: GromaModel,
        *,
        tokens: SpecialTokenIds,
        stop_ids: frozenset[int] | None = None,
        silent_ids: frozenset[int] = frozenset(),
        prefixes: PrefixStore | None = None,
    ) -> None:
        """Without any answer yet.

        Args:
            model: in evaluation mode.
            tokens: ids of the special tokens.
            stop_ids: tokens that end an answer; None: the end token alone.
            silent_ids: base tokens that are no text; a constrained answer has none.
            prefixes: what was read before, to which every answer that ends is added; None: nothing is kept.

        Raises:
            InputError: the language model has layers of another kind than attention.
        """
        model.language.check_maskable()
        self.language = model.language
        self.tokens, self.silent_ids = tokens, silent_ids
        self.stop_ids = stop_ids or frozenset({tokens.eos})
        self.prefixes = prefixes
        self.tokens_read = 0  # by the language model, in all answers
        self._waiting: dict[int, Prompt] = {}
        self._rows: list[_Row] = []
        self._cache = RowCache()

    @property
    def running(self) -> int:
        """Answers that have not ended."""
        return len(self._rows) + len(self._waiting)

    def add(self, key: int, prompt: Prompt) -> None:
        """An answer that begins with the next step."""
        self._waiting[key] = prompt

    @torch.inference_mode()
    def drop(self, key: int) -> None:
        """An answer that is no longer wanted; nothing happens if it has ended."""
        self._waiting.pop(key, None)
        for place, row in enumerate(self._rows):
            if row.key == key:
                self._leave(place)
                return

    def close(self) -> None:
        """Drop all answers, and the memory they took."""
        self._waiting.clear()
        self._rows.clear()
        self._cache = RowCache()

    @torch.inference_mode()
    def step(self) -> dict[int, Said | Failed]:
        """One token of every answer, by key; those that ended have left."""
        said = self._go_on() if self._rows else {}
        for newcomers in _runs([self._recall(key, prompt) for key, prompt in self._waiting.items()]):
            said |= self._begin(newcomers)
        return said

    # --- the language model ------------------------------------------------------------------------------------------

    def _go_on(self) -> dict[int, Said | Failed]:
        """Read what every answer said last."""
        starts = [row.length for row in self._rows]
        device = self._rows[0].prompt.embeddings.device
        last = torch.tensor([[row.said[-1]] for row in self._rows], device=device)
        hidden = self._read(0, self.language.embed(last), starts, [1] * len(starts))
        for row in self._rows:
            row.length += 1
        return self._speak(self._rows, hidden)

    def _recall(self, key: int, prompt: Prompt) -> "_Newcomer":
        """What is known of a prompt."""
        if self.prefixes is None or prompt.signature is None:
            return _Newcomer(key, prompt, None, 0)
        return _Newcomer(key, prompt, *self.prefixes.find(prompt.signature))

    def _begin(self, newcomers: Sequence[_Newcomer]) -> dict[int, Said | Failed]:
        """Read prompts: together, and one by one if that fails, so that only those fail that must."""
        first = len(self._rows)
        try:
            return self._read_prompts(newcomers)
        except Exception as error:  # noqa: BLE001  # memory, most of all; rows before `first` were not touched
            del self._rows[first:]
            if len(newcomers) == 1:
                self._waiting.pop(newcomers[0].key, None)
                return {newcomers[0].key: Failed(error)}
        # not within "except": what was raised holds on to memory
        return {key: one for newcomer in newcomers for key, one in self._begin([newcomer]).items()}

    def _read_prompts(self, newcomers: Sequence[_Newcomer]) -> dict[int, Said | Failed]:
        """Read the prompts of newcomers, less what is known of them."""
        first = len(self._rows)
        for place, one in enumerate(newcomers, start=first):
            if one.kept is not None:
                self._cache.load(place, one.kept.layers, one.known)
        given = [one.prompt.embeddings[one.known :] for one in newcomers]
        padded = torch.nn.utils.rnn.pad_sequence(given, batch_first=True)
        hidden = self._read(first, padded, [one.known for one in newcomers], [one.new for one in newcomers])
        for one in newcomers:
            self._rows.append(self._row(one.key, one.prompt, one.known))
            self._waiting.pop(one.key, None)
        return self._speak(self._rows[first:], hidden)

    def _row(self, key: int, prompt: Prompt, known: int) -> _Row:
        return _Row(
            key=key,
            prompt=prompt,
            state=AnswerState(self.tokens, prompt.num_regions, self.stop_ids, self.silent_ids),
            generator=torch.Generator().manual_seed(prompt.decoding.seed),
            remaining=prompt.decoding.max_new_tokens,
            length=len(prompt),
            known=known,
        )

    def _read(self, first: int, embeddings: Tensor, starts: Sequence[int], new: Sequence[int]) -> Tensor:
        """Run the language model on the rows from `first` on.

        Args:
            first: their first row.
            embeddings: (b, q, D), padded on the right.
            starts: tokens that each row has already.
            new: tokens that each row gets, of the q.

        Returns:
            (b, D) what it makes of the last of these.
        """
        self._cache.aim(first, starts)
        self.tokens_read += sum(new)
        width = embeddings.shape[1]
        begins = torch.tensor(starts, device=embeddings.device)
        positions = begins[:, None] + torch.arange(width, device=embeddings.device)
        hidden, _ = self.language(
            embeddings,
            attention_mask=self._mask(positions, starts, new, embeddings.dtype),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        last = torch.tensor(new, device=hidden.device) - 1
        return hidden[torch.arange(len(new), device=hidden.device), last]

    def _mask(self, positions: Tensor, starts: Sequence[int], new: Sequence[int], dtype: torch.dtype) -> object:
        """Each token sees its row up to itself; None where that is what attention does by itself."""
        same = len(set(starts)) == 1
        if same and not self.language.has_windows and (starts[0] == 0 or positions.shape[1] == 1):
            return None
        places = torch.arange(max(starts) + positions.shape[1], device=positions.device)
        visible = (places <= positions[:, :, None])[:, None]
        return self.language.layer_masks(visible, positions, dtype, key_positions=places[None].expand(len(starts), -1))

    # --- answers -----------------------------------------------------------------------------------------------------

    def _speak(self, rows: Sequence[_Row], hidden: Tensor) -> dict[int, Said | Failed]:
        """(b, D) -> what each row says next; rows that ended leave."""
        logits = self.language.logits(hidden)
        # a single transfer: the likeliest token, or that a row's numbers are none
        likeliest: list[int] = torch.where(logits.isnan().any(-1), -1, logits.argmax(-1)).numpy(force=True).tolist()
        rows, said = list(rows), dict[int, Said | Failed]()
        for place, row in enumerate(rows):
            if likeliest[place] < 0:
                said[row.key] = Failed(GromaError(NO_NUMBERS))
                continue
            token = choose(
                logits[place], likeliest[place], row.state, row.remaining, row.prompt.decoding, row.generator
            )
            row.remaining -= 1
            ended = token in self.stop_ids or row.remaining == 0
            said[row.key] = Said(
                token_id=token,
                region_probabilities=region_probabilities(token, logits[place], row.state),
                ended=ended,
                cached_tokens=0 if row.said else row.known,
                logits=logits[place],
            )
            row.state = row.state.after(token)
            row.said.append(token)
        for row in rows:
            one = said[row.key]
            if isinstance(one, Failed) or one.ended:
                place = next(place for place, other in enumerate(self._rows) if other is row)
                self._leave(place, is_sound=not isinstance(one, Failed))
        return said

    def _leave(self, place: int, *, is_sound: bool = True) -> None:
        """Keep what a row has read, unless it is no numbers, and give its place to the last one."""
        row, last = self._rows[place], self._rows[-1]
        if not is_sound:
            self._cache.clear(place)
        elif self.prefixes is not None and row.prompt.signature is not None:
            try:
                self._keep(place, row, self.prefixes)
            except Exception:  # memory: what is not kept is read again, and no answer is lost for it
                LOG.exception("what was read could not be kept")
        if last is not row:
            self._cache.move(len(self._rows) - 1, place, last.length)
            self._rows[place] = last
        self._rows.pop()

    def _keep(self, place: int, row: _Row, prefixes: PrefixStore) -> None:
        """The last token of an answer is said, but never read: it is not kept."""
        assert row.prompt.signature is not None
        read = row.length - len(row.prompt)
        known = torch.cat((row.prompt.signature, torch.tensor(row.said[:read], dtype=torch.int64)))
        prefixes.keep(Kept(known, self._cache.save(place, row.length)))


def _runs(newcomers: Iterable[_Newcomer]) -> Iterator[list[_Newcomer]]:
    """Newcomers that are read together: of similar length, as the shorter are padded, and not too many."""
    run: list[_Newcomer] = []
    for one in sorted(newcomers, key=lambda one: -one.new):
        if run and (one.new < run[0].new // 2 or run[0].new * (len(run) + 1) > MAX_PREFILL):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def decode(backend: Backend, prompts: Sequence[Prompt]) -> Iterator[dict[int, Said]]:
    """Begin an answer to each prompt and go on until all have ended.

    Args:
        backend: without any other answer.
        prompts: B prompts.

    Yields:
        Step by step what those say that have not ended, by number of the prompt. Who stops early has to `close` the
        back end.

    Raises:
        Exception: whatever stands in the way of one of them.
    """
    for number, prompt in enumerate(prompts):
        backend.add(number, prompt)
    while backend.running:
        said: dict[int, Said] = {}
        for number, one in backend.step().items():
            if isinstance(one, Failed):
                backend.close()
                raise one.error
            said[number] = one
        yield said
