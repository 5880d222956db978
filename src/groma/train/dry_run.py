"""A step of a stage on tensors without content: what it keeps in memory, for models of any size, on any machine.

Shapes are computed by torch itself (FakeTensorMode), so that every architecture of transformers is right without a
formula of its own. What depends on content (which proposals are kept, which boxes match) is replaced by the most there
can be.

B pictures, N image tokens, R regions of each, T tokens, K tokens that are learned.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groma.model.groma import GromaModel
from groma.train.detection import Detection
from groma.train.objective import Objective
from groma.train.sharding import blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """The largest micro-batch of a run."""

    pictures: int
    """B"""
    tokens: int = 0
    """T, of each row; 0: the stage has no language."""
    targets: int = 0
    """K, of all rows."""
    packed: bool = False
    """Whether a (B, 1, T, T) mask keeps the questions of a row apart."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside its `with` block and still there."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """`known` tensors are there already: views of them are not counted."""
        super().__init__()
        self.now = self.peak = 0
        self._storages = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.now -= size


class _AnswerZero(TorchDispatchMode):
    """Answers what code asks of a tensor's content, as some initializations do, with 0."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        return func(*args, **(kwargs or {}))


@contextmanager
def without_content(make: Callable[[], Objective]) -> Iterator[Objective]:
    """A `with` block in which tensors have shapes and no content, and what `make` makes in there."""
    with torch.device("meta"), _AnswerZero():
        objective = make()
    with FakeTensorMode():
        _move(objective)
        yield objective


def _move(module: nn.Module) -> None:
    """From the meta device, where modules can be made and changed at will, to a CPU's tensors without content."""
    moved: dict[int, Tensor] = {}
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in moved:
                        moved[id(tensor)] = _like(tensor)
                    table[name] = moved[id(tensor)]  # pyright: ignore[reportArgumentType]  # of the same kind


def _like(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def peak_of_step(
    objective: Objective, shape: BatchShape, *, side_px: int, precision: str, parts: int = 1, pile_up: bool = True
) -> int:
    """The most bytes that a forward and a backward pass need beside the weights. To be called `without_content`.

    Args:
        objective: of a stage that learns from pictures, made without content.
        shape: of the micro-batch.
        side_px: side of the pictures.
        precision: "fp32" or "bf16", as the loop computes.
        parts: processes that layers' gradients are divided among once they are there.
        pile_up: count gradients as they pile up; otherwise they are taken to be there already, and the new ones are
            added to them and dropped.
    """
    piles: list[Tensor] = []

    def put_away(parameter: Tensor) -> None:
        if pile_up:
            piles.append(torch.empty(-(-parameter.numel() // parts)))
        parameter.grad = None

    in_layers = {id(parameter) for block in blocks(objective) for parameter in block.parameters()}
    hooks = [
        parameter.register_post_accumulate_grad_hook(put_away)
        for parameter in objective.parameters()
        # those of a sharded run's root stay whole until the end
        if parameter.requires_grad and (not pile_up if parts == 1 else id(parameter) in in_layers)
    ]
    step = _detect if isinstance(objective, Detection) else _answer
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with LiveBytes(known=(*objective.parameters(), *objective.buffers())) as live, half:
        step(objective, shape, side_px).backward()
    for hook in hooks:
        hook.remove()
    return live.peak


def _pictures(shape: BatchShape, side_px: int) -> Tensor:
    return torch.zeros(shape.pictures, 3, side_px, side_px)


def _detect(objective: Any, shape: BatchShape, side_px: int) -> Tensor:
    """All that the losses are made of; they themselves need little."""
    output = objective.proposer(objective.encoder(_pictures(shape, side_px)))
    values = tree_leaves([getattr(output, field.name) for field in fields(output)])
    tensors = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
    return torch.stack([tensor.float().sum() for tensor in tensors]).sum()


def _answer(objective: Any, shape: BatchShape, side_px: int) -> Tensor:
    """groma.train.language with every region there is room for."""
    model: GromaModel = objective.model
    logits = model.language.logits(_hidden(model, _features(model, shape, side_px), shape))
    targets = torch.zeros(len(logits), dtype=torch.long)
    return F.cross_entropy(logits, targets, reduction="none").sum()


def _features(model: GromaModel, shape: BatchShape, side_px: int) -> Tensor:
    """(B, N + R, D) perceive, read and tokenize."""
    pictures = model.read(model.perceive(_pictures(shape, side_px)))
    boxes_cxcywh = [torch.zeros(model.config.selection.max_regions, 4) for _ in range(shape.pictures)]
    regions = model.region_encoder.encode(pictures.levels, boxes_cxcywh)
    return torch.stack([torch.cat(pair) for pair in zip(pictures.image, regions, strict=True)])


def _hidden(model: GromaModel, features: Tensor, shape: BatchShape) -> Tensor:
    """(K, D) final hidden states of what is learned."""
    ids = torch.zeros(shape.pictures, shape.tokens, dtype=torch.long)
    words = model.language.embed(ids)
    inserted = F.pad(features, (0, 0, 0, max(0, shape.tokens - features.shape[1])))[:, : shape.tokens]
    embeddings = torch.where((ids > 0)[..., None], words, inserted)
    positions = torch.arange(shape.tokens).expand(shape.pictures, -1)
    mask: Any = torch.ones(ids.shape, dtype=torch.long)
    if shape.packed:
        visible = torch.ones(shape.pictures, 1, shape.tokens, shape.tokens, dtype=torch.bool)
        mask = model.language.layer_masks(visible, positions, embeddings.dtype)
        del visible
    hidden, _ = model.language(embeddings, attention_mask=mask, position_ids=positions, use_cache=False)
    return hidden.flatten(0, 1)[: max(shape.targets, 1)]
