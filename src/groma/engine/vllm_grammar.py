"""What of Groma runs where vLLM samples: the grammar of answers as one of its custom logits processors.

vLLM loads `GrammarLogitsProcessor` by name (groma.engine.vllm_backend asks it to) and gives it the logits of the batch;
what the grammar (groma.inference.constraint) forbids next becomes minus infinity. What a request wants stands in
`SamplingParams.extra_args`, under the keys below.

vLLM has two model runners with an interface each and picks one when it starts; the processor serves both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groma.errors import CheckpointError
from groma.inference.constraint import TOKENS_TO_CLOSE, UNLIMITED, AnswerState
from groma.prompt.tokens import SpecialTokenIds
from groma.storage import read_json_object

REGIONS = "groma_regions"
"""Key of the number of regions that exist; without it the grammar does not hold."""

TEMPERATURE = "groma_temperature"
"""Key of a temperature that vLLM would not take: the logits are divided by it here."""

PROCESSOR = "GrammarLogitsProcessor"
RUNNERS = ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor")
"""Where vLLM's two model runners keep the base class of their processors."""

DESCRIPTION, FORMAT = "groma/export.json", 1
"""What an export tells about itself (groma.convert.export)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An exported language model, as far as vLLM's side needs to know it."""

    folder: Path
    tokens: SpecialTokenIds
    """ids of the special tokens"""
    stop_ids: frozenset[int]
    """tokens that end an answer"""
    silent_ids: frozenset[int]
    """base tokens that are no text"""
    family: str
    """transformers' name of the architecture"""
    dtype: str
    """type that its weights are stored in, e.g. "bfloat16" """

    @classmethod
    def read(cls, folder: str | Path) -> "Export":
        """Read what the export says about itself.

        Raises:
            CheckpointError: the folder is no export, or one of another version.
        """
        folder = Path(folder)
        path = folder / DESCRIPTION
        if not path.is_file():
            raise CheckpointError(f"{folder} is no exported language model: make one with groma export-language.")
        told = read_json_object(path, error=CheckpointError)
        if told.get("format") != FORMAT:
            raise CheckpointError(f"{path} is of format {told.get('format')!r}, expected {FORMAT}: export it anew.")
        config = read_json_object(folder / "config.json", error=CheckpointError)
        roles = {role: told[role] for role in ("bos", "eos", "unk")}
        return cls(
            folder=folder,
            tokens=SpecialTokenIds.after(told["base_vocab_size"], num_regions=told["num_regions"], **roles),
            stop_ids=frozenset(told["stop_ids"]),
            silent_ids=frozenset(told["silent_ids"]),
            family=config["model_type"],
            dtype=config["dtype"],
        )


@dataclass(slots=True)
class _Row:
    """An answer whose logits are changed."""

    state: AnswerState | None
    """where it stands in the grammar; None: that does not hold"""
    temperature: float
    limit: int
    """tokens that it may have"""
    token_ids: Sequence[int] = ()
    """first runner: all that was said, a list that grows"""
    heard: int = 0
    """tokens of it that the state knows"""

    def hear(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.state = None if self.state is None else self.state.after(token_id)
            self.heard += 1


class GrammarRows:
    """The part of `GrammarLogitsProcessor` that is Groma's; vLLM's base classes join it below.

    The first runner tells of each change of the batch and shares the list of tokens of every request; rows of the
    logits are places in the batch. In the second, requests keep a slot; a context tells slot, position and latest token
    of each row of the logits, and all tokens so far lie on the device.
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        """Called by vLLM: with its configuration, then device and pinning, or the state of the requests."""
        self._export = Export.read(vllm_config.model_config.model)
        self._requests = rest[0] if len(rest) == 1 else None
        self._rows: dict[int, _Row] = {}
        self._banned = lru_cache(maxsize=256)(_banned)

    def is_argmax_invariant(self) -> bool:
        """The likeliest token may be forbidden."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """First runner: requests came, left or moved in the batch."""
        if batch_update is None:
            return
        for place in batch_update.removed:
            self._rows.pop(place, None)
        for place, params, _, token_ids in batch_update.added:
            if self.add_request(place, params):
                self._rows[place].token_ids = token_ids
        for one, other, direction in batch_update.moved:
            moved, replaced = self._rows.pop(one, None), self._rows.pop(other, None)
            if moved is not None:
                self._rows[other] = moved
            if replaced is not None and direction.name == "SWAP":
                self._rows[one] = replaced

    def add_request(self, place: int, params: Any) -> bool:
        """A request takes a place, or a slot of the second runner; says whether its logits will be changed."""
        self._rows.pop(place, None)  # of who was there before
        wanted, export = params.extra_args or {}, self._export
        num_regions, temperature = wanted.get(REGIONS), wanted.get(TEMPERATURE, 1.0)
        if num_regions is None and temperature == 1:
            return False
        state = None
        if num_regions is not None:
            state = AnswerState(export.tokens, num_regions, export.stop_ids, export.silent_ids)
        self._rows[place] = _Row(state, temperature, params.max_tokens or UNLIMITED)
        return True

    def apply(self, logits: Tensor, context: Any = None) -> Tensor:
        """Change (rows, V + A) logits in place: forbid what may not come next."""
        if not self._rows:
            return logits
        for line, row in self._lines() if context is None else self._lines_of(context):
            if row.temperature != 1:
                logits[line].div_(row.temperature)
            if row.state is not None:
                remaining = min(row.limit - row.heard, 1 + max(TOKENS_TO_CLOSE.values()))  # more make no difference
                banned = self._banned(row.state, remaining, logits.device)
                logits[line, : len(banned)].masked_fill_(banned, float("-inf"))
        return logits

    def _lines(self) -> Iterable[tuple[int, _Row]]:
        """First runner: rows of the logits with their answers, which have heard all."""
        for place, row in self._rows.items():
            row.hear(row.token_ids[row.heard :])
            yield place, row

    def _lines_of(self, context: Any) -> Iterable[tuple[int, _Row]]:
        """Second runner: the same."""
        columns = (context.expanded_idx_mapping, context.pos, context.input_ids)
        slots, positions, latest = torch.stack([column.long() for column in columns]).tolist()
        requests: Any = self._requests
        for line, (slot, position, token_id) in enumerate(zip(slots, positions, latest, strict=True)):
            row = self._rows.get(slot)
            if row is None:
                continue
            begin = int(requests.prompt_len.np[slot])
            said = position + 1 - begin
            if said == row.heard + 1:
                row.hear([token_id])
            elif said > row.heard:  # it was set aside and taken up again
                row.hear(requests.all_token_ids.gpu[slot, begin + row.heard : position + 1].tolist())
            yield line, row


def _banned(state: AnswerState, remaining: int, device: torch.device) -> Tensor:
    return ~state.allowed(remaining).to(device)


@cache
def _processor() -> type:
    bases = [import_module(runner).LogitsProcessor for runner in RUNNERS]
    return type(PROCESSOR, (GrammarRows, *bases), {"__module__": __name__, "__doc__": GrammarRows.__doc__})


def __getattr__(name: str) -> Any:
    """The class that vLLM loads: it needs vLLM, this module does not."""
    if name == PROCESSOR:
        return _processor()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
