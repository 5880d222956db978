"""A stand-in for the package vllm: the documented interface of 0.32, as far as the back end needs it.

Names, arguments, what is refused and what comes back are vLLM's; the work is done by a plain transformers model of the
folder, one request at a time. A token budget spreads the reading of prompts over several steps, requests move within
the batch as others leave, and those beyond `max_num_seqs` wait. It has both model runners' interfaces for logits
processors; `VLLM_USE_V2_MODEL_RUNNER` chooses, as in vLLM.
"""

import importlib
import os
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

MAX_LOGPROB_TOKEN_IDS = 128


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    extra_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if not all(type(token) is int for token in self.stop_token_ids or ()):
            raise ValueError("stop_token_ids must contain only integers")
        if len(self.logprob_token_ids or ()) > MAX_LOGPROB_TOKEN_IDS:
            raise ValueError("too many logprob_token_ids")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: None
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None = None


@dataclass
class EngineArgs:
    model: str
    enable_prompt_embeds: bool = False
    skip_tokenizer_init: bool = False
    generation_config: str = "auto"
    logprobs_mode: str = "raw_logprobs"
    logits_processors: list[str | type] | None = None
    dtype: str = "auto"
    async_scheduling: bool | None = None
    disable_log_stats: bool = False
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    model_impl: str = "auto"
    speculative_config: dict[str, Any] | None = None


# --- logits processors: the interface of the first model runner ------------------------------------------------------


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: Sequence[int]
    added: Sequence[tuple[int, SamplingParams, list[int] | None, list[int]]]
    moved: Sequence[tuple[int, int, MoveDirectionality]]


class FirstLogitsProcessor(ABC):
    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        return None

    @abstractmethod
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None: ...

    @abstractmethod
    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...

    @abstractmethod
    def update_state(self, batch_update: BatchUpdate | None) -> None: ...


# --- and of the second -----------------------------------------------------------------------------------------------


class SecondLogitsProcessor(ABC):
    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        return None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        return None

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        return True

    def apply_staged_writes(self) -> None:
        return None

    @abstractmethod
    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor: ...


# --- the engine ------------------------------------------------------------------------------------------------------


@dataclass
class _Request:
    name: str
    embeddings: torch.Tensor
    params: SamplingParams
    token_ids: list[int] = field(default_factory=list)
    read: int = 0
    """tokens of the prompt that were read"""
    slot: int = -1
    generator: torch.Generator = field(default_factory=torch.Generator)
    cache: Any = None
    hidden_logits: torch.Tensor | None = None

    def set_aside(self) -> None:
        """What vLLM does when its memory is short: everything has to be read again."""
        self.read, self.cache, self.slot = 0, None, -1


class LLMEngine:
    def __init__(self, arguments: EngineArgs) -> None:
        self.arguments = arguments
        dtype = getattr(torch, arguments.dtype)
        self.model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
        self.waiting: list[_Request] = []
        self.batch: list[_Request] = []
        """first runner: places in the batch are places here"""
        self.steps = 0
        self.limit = arguments.max_num_seqs or 64
        self.second = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"
        context = arguments.max_model_len or self.model.config.max_position_embeddings
        self.model_config = SimpleNamespace(model=arguments.model, max_model_len=context)
        config = SimpleNamespace(model_config=self.model_config)
        self.states = SimpleNamespace(
            device=self.model.device,
            max_num_reqs=self.limit,
            vocab_size=self.model.config.vocab_size,
            all_token_ids=SimpleNamespace(gpu=torch.zeros(self.limit, context, dtype=torch.int32)),
            prompt_len=SimpleNamespace(np=torch.zeros(self.limit, dtype=torch.int32).numpy()),
        )
        base = SecondLogitsProcessor if self.second else FirstLogitsProcessor
        self.processors = []
        for name in arguments.logits_processors or ():
            module, _, kind = name.partition(":")
            made = getattr(importlib.import_module(module), kind)
            assert isinstance(made, type) and issubclass(made, base)
            self.processors.append(made(config, self.states) if self.second else made(config, self.model.device, False))

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, **_: Any) -> "LLMEngine":
        return cls(engine_args)

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        if not isinstance(request_id, str):
            raise TypeError("request_id must be a string")
        if not self.arguments.enable_prompt_embeds:
            raise ValueError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        assert prompt.keys() == {"prompt_embeds"} and prompt["prompt_embeds"].ndim == 2
        if len(prompt["prompt_embeds"]) >= self.model_config.max_model_len:
            raise ValueError("The decoder prompt is longer than the maximum model length")
        request = _Request(request_id, prompt["prompt_embeds"].cpu(), params)
        request.generator.manual_seed(params.seed or 0)
        self.waiting.append(request)
        return request_id

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        assert not isinstance(request_ids, str)
        self.waiting = [request for request in self.waiting if request.name not in request_ids]
        self._leave([request for request in self.batch if request.name in request_ids])

    def set_aside(self, request_id: str) -> None:
        """Not vLLM's: as if memory were short."""
        (request,) = [request for request in self.batch if request.name == request_id]
        self._leave([request])
        request.set_aside()
        self.waiting.insert(0, request)

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        assert self.waiting or self.batch, "vLLM would wait for ever"
        self.steps += 1
        self._join()
        budget = self.arguments.max_num_batched_tokens or 1 << 30
        ready = []
        for request in self.batch:
            budget = self._read(request, budget)
            if request.read == len(request.embeddings):
                ready.append(request)
        logits = torch.stack([self._logits(request) for request in self.batch])
        scores = logits.log_softmax(-1)
        processed = self._process(logits.clone())
        outputs = []
        for place, request in enumerate(self.batch):
            if request in ready:
                outputs.append(self._say(request, processed[place], scores[place]))
        self._leave([request for request in ready if self._reason(request) is not None])
        return outputs

    def _join(self) -> None:
        while self.waiting and len(self.batch) < self.limit:
            request = self.waiting.pop(0)
            self.batch.append(request)
            if self.second:
                taken = {other.slot for other in self.batch}
                request.slot = min(set(range(self.limit)) - taken)
                length = len(request.embeddings)
                self.states.prompt_len.np[request.slot] = length
                said = torch.tensor(request.token_ids, dtype=torch.int32)
                self.states.all_token_ids.gpu[request.slot, length : length + len(said)] = said
                for processor in self.processors:
                    processor.add_request(request.slot, request.params)
            else:
                self._tell(added=[(len(self.batch) - 1, request.params, None, request.token_ids)])

    def _leave(self, gone: list[_Request]) -> None:
        """The last of the batch take the places that become free."""
        for request in gone:
            place, last = self.batch.index(request), len(self.batch) - 1
            self.batch[place] = self.batch[last]
            self.batch.pop()
            if not self.second:
                moved = [(last, place, MoveDirectionality.UNIDIRECTIONAL)] if place != last else []
                self._tell(removed=[place], moved=moved)

    def swap(self, one: int, other: int) -> None:
        """Not vLLM's own choice of a moment: two requests change places in the batch."""
        self.batch[one], self.batch[other] = self.batch[other], self.batch[one]
        if not self.second:
            self._tell(moved=[(one, other, MoveDirectionality.SWAP)])

    def _tell(self, **changes: Any) -> None:
        update = BatchUpdate(len(self.batch), **{"removed": [], "added": [], "moved": [], **changes})
        for processor in self.processors:
            processor.update_state(update)

    def _read(self, request: _Request, budget: int) -> int:
        """Read on, as far as the budget goes: the prompt, then what was said."""
        if request.read < len(request.embeddings):
            take = min(budget, len(request.embeddings) - request.read)
            if take:
                part = request.embeddings[None, request.read : request.read + take].to(self.model.dtype)
                self._run(request, inputs_embeds=part)
                request.read += take
                if request.read == len(request.embeddings) and request.token_ids:
                    self._run(request, input_ids=torch.tensor([request.token_ids]))
            return budget - take
        self._run(request, input_ids=torch.tensor([request.token_ids[-1:]]))
        return budget - 1

    def _run(self, request: _Request, **given: torch.Tensor) -> None:
        request.cache = request.cache or DynamicCache(config=self.model.config)
        output = self.model(**given, past_key_values=request.cache, use_cache=True)
        request.hidden_logits = output.logits[0, -1].float()

    def _logits(self, request: _Request) -> torch.Tensor:
        """What was not read yet has logits as well, that nobody looks at."""
        nothing = torch.zeros(self.model.config.vocab_size)
        return nothing if request.hidden_logits is None else request.hidden_logits

    def _process(self, logits: torch.Tensor) -> torch.Tensor:
        for processor in self.processors:
            if self.second:
                processor.apply_staged_writes()
                logits = processor.apply(logits, self._context())
            else:
                processor.update_state(None)
                logits = processor.apply(logits)
        return logits

    def _context(self) -> Any:
        slots = torch.tensor([request.slot for request in self.batch])
        positions = torch.tensor([request.read + len(request.token_ids) - 1 for request in self.batch])
        latest = torch.tensor([(request.token_ids or [0])[-1] for request in self.batch], dtype=torch.int32)
        return SimpleNamespace(
            expanded_idx_mapping=slots,
            idx_mapping=slots,
            idx_mapping_np=slots.numpy(),
            expanded_local_pos=torch.zeros_like(slots),
            input_ids=latest,
            pos=positions,
        )

    def _say(self, request: _Request, logits: torch.Tensor, scores: torch.Tensor) -> RequestOutput:
        params = request.params
        if params.temperature < 1e-5:
            token = int(logits.argmax())
        else:
            ordered, order = (logits / params.temperature).softmax(-1).sort(descending=True)
            kept = ordered * (ordered.cumsum(0) - ordered < params.top_p)
            token = int(order[torch.multinomial(kept, 1, generator=request.generator)])
        request.token_ids.append(token)
        if self.second:
            place = len(request.embeddings) + len(request.token_ids) - 1
            self.states.all_token_ids.gpu[request.slot, place] = token
        asked = [token, *(params.logprob_token_ids or ())]
        told = {i: Logprob(float(scores[i])) for i in asked} if params.logprob_token_ids else None
        reason = self._reason(request)
        completion = CompletionOutput(
            index=0,
            text="",
            token_ids=[token] if params.output_kind is RequestOutputKind.DELTA else list(request.token_ids),
            cumulative_logprob=None,
            logprobs=None if told is None else [told],
            finish_reason=reason,
        )
        cached = len(request.embeddings) // 2  # any number will do
        return RequestOutput(request.name, None, None, None, [completion], reason is not None, cached)

    def _reason(self, request: _Request) -> str | None:
        if not request.token_ids:
            return None
        if request.token_ids[-1] in (request.params.stop_token_ids or ()):
            return "stop"
        full = len(request.embeddings) + len(request.token_ids) >= self.model_config.max_model_len
        return "length" if full or len(request.token_ids) == request.params.max_tokens else None


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import vllm` find this."""
    contents = {
        "vllm": {"EngineArgs": EngineArgs, "LLMEngine": LLMEngine, "SamplingParams": SamplingParams},
        "vllm.sampling_params": {"SamplingParams": SamplingParams, "RequestOutputKind": RequestOutputKind},
        "vllm.v1.sample.logits_processor": {
            "LogitsProcessor": FirstLogitsProcessor,
            "BatchUpdate": BatchUpdate,
            "MoveDirectionality": MoveDirectionality,
        },
        "vllm.v1.worker.gpu.sample.logits_processor": {"LogitsProcessor": SecondLogitsProcessor},
    }
    for name, members in contents.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
