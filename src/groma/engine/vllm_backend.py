"""vLLM as a back end (groma.inference.decoder.Backend): it runs the language model that `groma export-language` wrote.

    Prompt --add--> prompt embeddings, SamplingParams --LLMEngine.add_request--> vLLM
    Said  <--step-- what is new of every answer       <-----LLMEngine.step------ vLLM

Pictures are still seen by Groma. The grammar of answers holds token by token, where vLLM samples
(groma.engine.vllm_grammar). vLLM is imported only once a back end is made.

Written for the interface of vLLM 0.31 to 0.33; docs/vllm.md says what was run.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import torch

from groma.engine import vllm_grammar
from groma.engine.vllm_grammar import PROCESSOR, REGIONS, TEMPERATURE, Export
from groma.engine.watched import ProcessEndedError, Watched
from groma.errors import CheckpointError, GromaError, InputError, MissingExtraError
from groma.inference.decoder import Failed, Prompt, Said
from groma.inference.generate import COLDEST, Decoding
from groma.prompt.tokens import SpecialTokenIds

LOG = logging.getLogger("groma.engine")

MAX_SCORED = 128
"""Tokens whose probabilities vLLM gives for a request (its MAX_LOGPROB_TOKEN_IDS)."""

TEMPERATURES = (0.01, 2.0)
"""What vLLM takes: it makes a lower one 0.01 and refuses a higher one."""

ALWAYS_TIED = frozenset({"gemma2", "cohere", "cohere2"})
"""Families whose output head is the embedding in vLLM's own code, whatever the configuration says (0.32)."""

FIXED: dict[str, Any] = {
    "enable_prompt_embeds": True,
    "skip_tokenizer_init": True,
    "generation_config": "vllm",
    "logprobs_mode": "raw_logprobs",  # as the model says them: regions are scored before the grammar
    "logits_processors": [f"{vllm_grammar.__name__}:{PROCESSOR}"],
}
"""Engine arguments without which answers would be wrong."""

DEFAULTS: dict[str, Any] = {"async_scheduling": False, "disable_log_stats": True}


@dataclass(slots=True)
class _Answer:
    """An answer that vLLM is giving."""

    name: str
    """vLLM's name of the request"""
    num_regions: int
    begun: bool = False
    """something was said"""
    waiting: deque[Said | Failed] = field(default_factory=deque[Said | Failed])
    """what was said, but not told yet"""


class VLLMBackend:
    """Answers from vLLM's engine. Sampled answers are as likely as Groma's own, but drawn by vLLM's generator."""

    def __init__(
        self,
        folder: str | Path,
        *,
        tokens: SpecialTokenIds,
        stop_ids: frozenset[int] | None = None,
        silent_ids: frozenset[int] = frozenset(),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Start vLLM.

        Args:
            folder: what `groma export-language` wrote of the model whose prompts will come.
            tokens: ids of the special tokens.
            stop_ids: tokens that end an answer; None: the end token alone.
            silent_ids: base tokens that are no text; a constrained answer has none.
            options: further arguments of vLLM's `EngineArgs`, such as max_num_seqs or tensor_parallel_size.

        Raises:
            MissingExtraError: vLLM is not installed.
            CheckpointError: the folder is no export, or one of another model.
            InputError: vLLM cannot run this family rightly, or an option is none or may not be set.
        """
        export, options = Export.read(folder), dict(options or {})
        self.tokens, self.stop_ids = tokens, stop_ids or frozenset({tokens.eos})
        if (export.tokens, export.stop_ids, export.silent_ids) != (tokens, self.stop_ids, silent_ids):
            raise CheckpointError(f"{folder} was exported from another model: its special tokens have other ids.")
        _check(export, options)
        self._arguments = {"model": str(export.folder), "dtype": export.dtype} | DEFAULTS | options | FIXED
        self._dtype: torch.dtype = getattr(torch, self._arguments["dtype"])
        self._vllm, self._kinds = _import("vllm"), _import("vllm.sampling_params").RequestOutputKind
        self._numbers = count()
        self._keys: dict[str, int] = {}
        self._answers: dict[int, _Answer] = {}
        self._watched: Watched[Any] | None = self._start()

    def _start(self) -> Watched[Any]:
        try:
            arguments = self._vllm.EngineArgs(**self._arguments)
        except TypeError as error:
            raise InputError(f"vLLM's engine does not take these options: {error}.") from error
        return Watched(lambda: self._vllm.LLMEngine.from_engine_args(arguments))

    def _engine(self) -> Any:
        """What vLLM runs, started anew if it was let go or has died."""
        if self._watched is not None and not self._watched.alive:
            self._lose(ProcessEndedError("its process has ended"))
        if self._watched is None:
            self._watched = self._start()
        return self._watched.inner

    def _lose(self, error: Exception) -> GromaError:
        """All answers of a vLLM that is dead are lost: the next steps tell that."""
        LOG.warning("vLLM failed, and is started anew for the next question (%s)", error)
        self._watched = None
        failed = GromaError(f"vLLM failed ({error}); its log says why.")
        for answer in self._answers.values():
            answer.waiting.append(Failed(failed))
        return failed

    @property
    def running(self) -> int:
        """Answers that have not ended."""
        return len(self._answers)

    def add(self, key: int, prompt: Prompt) -> None:
        """An answer that begins with the next step; it is cut where vLLM's context ends.

        Raises:
            InputError: not even the prompt fits into vLLM's context, or vLLM refuses it.
            GromaError: vLLM failed.
        """
        engine = self._engine()
        context: int = engine.model_config.max_model_len
        room = context - len(prompt.token_ids)
        if room < 1:
            raise InputError(
                f"A prompt of {len(prompt.token_ids)} tokens leaves no room for an answer in vLLM's context of "
                f"{context} (max_model_len)."
            )
        name = f"groma-{next(self._numbers)}"
        embeddings = prompt.embeddings.detach().to(device="cpu", dtype=self._dtype).contiguous()
        try:
            engine.add_request(name, {"prompt_embeds": embeddings}, self._sampling(prompt, room))
        except ValueError as error:
            raise InputError(f"vLLM refuses the request: {error}.") from error
        except Exception as error:  # whatever it was, vLLM takes no more requests
            raise self._lose(error) from error
        self._keys[name] = key
        self._answers[key] = _Answer(name, prompt.num_regions)

    def _sampling(self, prompt: Prompt, room: int) -> Any:
        """How tokens are chosen, in vLLM's words."""
        decoding = prompt.decoding
        # what is not constrained may name any region
        scored = list(self.tokens.region_ids[: prompt.num_regions if decoding.constrained else None])
        temperature, extra = _temperature(decoding)
        extra |= {REGIONS: prompt.num_regions} if decoding.constrained else {}
        return self._vllm.SamplingParams(
            temperature=temperature,
            top_p=decoding.top_p,
            seed=decoding.seed,
            max_tokens=min(decoding.max_new_tokens, room),
            stop_token_ids=sorted(self.stop_ids),
            logprob_token_ids=scored or None,
            flat_logprobs=True,  # no object for each probability
            detokenize=False,
            output_kind=self._kinds.DELTA,
            extra_args=extra or None,
        )

    def step(self) -> dict[int, Said | Failed]:
        """One token of every answer, by key; those that ended have left.

        An answer whose prompt vLLM is still reading, or has not begun to read, is missing. At least one is there,
        unless none is running. If vLLM fails, so do all answers, and the next one starts it anew.
        """
        while self._answers and not any(answer.waiting for answer in self._answers.values()):
            assert self._watched is not None, "answers that nobody gives"
            try:
                outputs = self._watched.wait_for(self._watched.inner.step)
            except Exception as error:  # noqa: BLE001  # whatever it was, vLLM takes no more requests
                self._lose(error)
                break
            for output in outputs:
                self._hear(output)
        said = {key: answer.waiting.popleft() for key, answer in self._answers.items() if answer.waiting}
        for key in [key for key, one in said.items() if isinstance(one, Failed) or one.ended]:
            del self._keys[self._answers.pop(key).name]
        return said

    def _hear(self, output: Any) -> None:
        """Note what is new of an answer (a `RequestOutput`)."""
        key = self._keys.get(output.request_id)
        if key is None:  # dropped meanwhile
            return
        answer, completion = self._answers[key], output.outputs[0]
        given_up = output.finished and completion.finish_reason not in ("stop", "length")
        token_ids: Sequence[int] = completion.token_ids
        for place, token_id in enumerate(token_ids, start=1):
            number = self.tokens.region_number(token_id)
            scores = None if number is None else self._probabilities(completion.logprobs[place - 1], number, answer)
            answer.waiting.append(
                Said(
                    token_id=token_id,
                    region_probabilities=scores,
                    ended=output.finished and not given_up and place == len(token_ids),
                    cached_tokens=0 if answer.begun else output.num_cached_tokens or 0,
                )
            )
            answer.begun = True
        if given_up:
            reason = f"vLLM gave up an answer ({completion.finish_reason}); its log says why."
            answer.waiting.append(Failed(GromaError(reason)))

    def _probabilities(self, scores: Mapping[int, Any], number: int, answer: _Answer) -> dict[int, float]:
        """As groma.inference.generate.region_probabilities: renormalized over the regions that exist."""
        existing = self.tokens.region_ids[: max(answer.num_regions, number + 1)]
        given = torch.tensor([scores[token_id].logprob for token_id in existing])
        return dict(enumerate(given.softmax(-1).tolist()))

    def drop(self, key: int) -> None:
        """An answer that is no longer wanted; nothing happens if it has ended."""
        answer = self._answers.pop(key, None)
        if answer is not None:
            del self._keys[answer.name]
            if self._watched is not None:
                self._watched.inner.abort_request([answer.name])

    def close(self) -> None:
        """Drop all answers. vLLM stays and can be given others; it ends with this object, or by `shut_down`."""
        for key in list(self._answers):
            self.drop(key)

    def shut_down(self) -> None:
        """Drop all answers and let vLLM go: its process ends and its memory is free. A new answer starts it anew."""
        self.close()
        self._watched = None


def _temperature(decoding: Decoding) -> tuple[float, dict[str, Any]]:
    """The temperature to give to vLLM, and what its processor of ours has to do besides."""
    wanted, (lowest, highest) = decoding.temperature, TEMPERATURES
    if wanted < COLDEST:
        return 0.0, {}
    return (wanted, {}) if lowest <= wanted <= highest else (1.0, {TEMPERATURE: wanted})


def _check(export: Export, options: Mapping[str, Any]) -> None:
    """What would go wrong silently is refused."""
    taken = sorted(options.keys() & {"model", *FIXED})
    if taken or options.get("speculative_config") is not None:
        names = ", ".join(taken) or "speculative_config"
        raise InputError(f"vLLM's options must not set {names}: Groma's answers depend on it.")
    if not isinstance(getattr(torch, str(options.get("dtype", export.dtype)), None), torch.dtype):
        raise InputError(f"vLLM's option dtype is {options['dtype']!r}, expected float32, bfloat16 or float16.")
    if export.family in ALWAYS_TIED:
        raise InputError(
            f"vLLM takes the embedding of a {export.family} for its output head, but Groma's tokens have rows of their "
            "own in both: use Groma's own decoder."
        )
    if export.tokens.num_regions > MAX_SCORED:
        raise InputError(
            f"vLLM tells the probabilities of at most {MAX_SCORED} tokens, but the model has "
            f"{export.tokens.num_regions} region tokens: use Groma's own decoder."
        )


def _import(name: str) -> Any:
    """A module of vLLM's.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise MissingExtraError("The vLLM back end needs the package vllm: pip install 'groma[vllm]'") from None
