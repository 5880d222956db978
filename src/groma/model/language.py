"""Stop 6 of 6: any causal LM of transformers, extended by Groma's tokens without touching its own tables.

B samples, T tokens, D width, V base vocabulary, A added tokens.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from groma.errors import InputError

FULL, SLIDING = "full_attention", "sliding_attention"
"""transformers' names of layers that see everything before, and of those that see no further than a window."""


class LanguageModel(nn.Module):
    """A base LM beside separate rows for the added tokens, so that the base can stay frozen.

    Ids below V are the base's; ids from V on are rows of `added_embeddings`, and their logits come from
    `added_head`: the output vocabulary is [base, added] (golden conventions, "Prompt").
    """

    def __init__(self, config: PreTrainedConfig, num_added: int, *, base: PreTrainedModel | None = None) -> None:
        """Build the base of `config`, or take one; `num_added` is A."""
        super().__init__()
        self.base: Any = AutoModelForCausalLM.from_config(config) if base is None else base
        width = self.base.get_input_embeddings().embedding_dim
        self.added_embeddings = nn.Embedding(num_added, width, dtype=self.base.dtype)
        self.added_head = nn.Linear(width, num_added, bias=False, dtype=self.base.dtype)
        self.reset_added_rows()

    @torch.no_grad()
    def reset_added_rows(self) -> None:
        """Start the added rows as the mean of the base's rows plus a little noise, so that they can part."""
        for added, table in (
            (self.added_embeddings.weight, self.base.get_input_embeddings().weight),
            (self.added_head.weight, self.base.get_output_embeddings().weight),
        ):
            added.copy_(table.mean(0, keepdim=True) + torch.randn_like(added) * table.std())

    # transformers asks the direct children of a model for the next two; the base is one level deeper than it looks

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Names of the base's tied weights -> name of the weight they share (e.g. output head -> embedding)."""
        return {f"base.{tied}": f"base.{source}" for tied, source in self.base.all_tied_weights_keys.items()}

    @property
    def _no_split_modules(self) -> set[str]:
        """Classes of the base that a device map must keep whole."""
        return set(self.base._no_split_modules or ())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the module, but leave rotary frequencies in their type: in bfloat16 positions would blur."""
        frequencies = {name: buffer for name, buffer in self.named_buffers() if name.endswith("inv_freq")}
        super()._apply(fn, recurse)
        for name, buffer in list(self.named_buffers()):
            if name in frequencies and buffer.dtype != frequencies[name].dtype:
                owner, _, own_name = name.rpartition(".")
                setattr(self.get_submodule(owner), own_name, frequencies[name].to(buffer.device))
        return self

    @property
    def base_vocab_size(self) -> int:
        """V, the rows of the base's embedding."""
        return self.base.get_input_embeddings().num_embeddings

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.added_embeddings.embedding_dim

    def embed(self, token_ids: Tensor) -> Tensor:
        """(...) ids, base and added -> (..., D) word embeddings."""
        is_added = token_ids >= self.base_vocab_size
        table = self.base.get_input_embeddings()
        base = table(token_ids.masked_fill(is_added, 0))
        added = self.added_embeddings((token_ids - self.base_vocab_size).clamp(min=0))
        scale = getattr(table, "scalar_embed_scale", None)  # Gemma's table multiplies what it looks up
        added = added if scale is None else added * scale
        return torch.where(is_added[..., None], added, base)

    def forward(self, embeddings: Tensor, **kwargs: Any) -> tuple[Tensor, Any]:
        """Run the decoder.

        Args:
            embeddings: (B, T, D).
            **kwargs: attention_mask, position_ids, past_key_values, use_cache and whatever else the base takes.

        Returns:
            (B, T, D) final hidden states, and the key-value cache or None.
        """
        output = self.base.get_decoder()(inputs_embeds=embeddings, **kwargs)
        return output.last_hidden_state, getattr(output, "past_key_values", None)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V + A) float32 logits, scaled and capped as the family does."""
        logits = torch.cat((self.base.get_output_embeddings()(hidden), self.added_head(hidden)), dim=-1).float()
        config = self.base.config.get_text_config()
        scale = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
        if scale != 1.0:  # the most there are: no pass over all of them for nothing
            logits = logits * scale
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @property
    def has_windows(self) -> bool:
        """Whether some layers see no further back than a window."""
        config = self.base.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        return getattr(config, "sliding_window", None) is not None and (not kinds or SLIDING in kinds)

    def check_maskable(self) -> None:
        """See whether prompts of several lengths can be read together.

        Raises:
            InputError: the family has layers that no mask can keep from looking, such as convolutions.
        """
        config = self.base.config.get_text_config()
        other = set(getattr(config, "layer_types", None) or ()) - {FULL, SLIDING}
        if other:
            raise InputError(
                f"Prompts cannot share a batch for {config.model_type}: its layers of kind {', '.join(sorted(other))} "
                "would see from one into another."
            )

    def layer_masks(
        self, visible: Tensor, position_ids: Tensor, dtype: torch.dtype, *, key_positions: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """What the layers take as attention masks, for tokens that may not look at all that came before.

        Families whose layers see no further than a window cut it out of a two-dimensional mask, but leave a mask like
        this as it is; so the window is cut here, by position.

        Args:
            visible: (B, 1, T, K) bool, true where a token (row) may look at another (column).
            position_ids: (B, T).
            dtype: of the embeddings.
            key_positions: (B, K) positions of what is looked at; None: the same tokens.

        Returns:
            (B, 1, T, K) zeros and very negative numbers; a dictionary of two where the family's layers differ.

        Raises:
            InputError: the family has layers that no mask can keep from looking, such as convolutions.
        """
        self.check_maskable()
        config = self.base.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        if not self.has_windows:
            return _additive(visible, dtype)
        keys = position_ids if key_positions is None else key_positions
        distance = position_ids[:, :, None] - keys[:, None, :]
        near = _additive(visible & (distance < config.sliding_window)[:, None], dtype)
        return {FULL: _additive(visible, dtype), SLIDING: near} if kinds else near


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, a very negative number where not: what all families take."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)
