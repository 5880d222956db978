"""Which parameters are trained alike: matrices for Muon, weights that decay, weights that do not."""

from collections.abc import Iterable

from torch import nn

from groma.train.objective import ParameterGroup

SLOW = ("sampling_offsets",)
"""Parameters with a tenth of the learning rate in a Deformable DETR (arXiv 2010.04159, section 5): where a query
looks. References are boxes here, predicted by the box heads, so nothing else of that kind exists."""

EMBEDDINGS = ("lm_head", "added_head", "query_content", "position_embeddings")
"""Tables with a row a token or query that are no nn.Embedding: never orthogonalized, never decayed either."""


def parameter_groups(
    name: str, module: nn.Module, *, lr_scale: float = 1.0, slow_scale: float = 0.1
) -> list[ParameterGroup]:
    """Split the parameters of `module` that require gradients into up to four groups.

    Args:
        name: what the module is called in logs; group and parameter names start with it.
        module: any module; parameters without gradients are left out.
        lr_scale: factor on the configured learning rate for all groups.
        slow_scale: further factor for the parameters in SLOW.

    Returns:
        "<name>" (other weights), "<name>/matrices" (2-D hidden matrices, which Muon may take), "<name>/slow" and
        "<name>/plain" (norms, biases, embeddings: no decay); empty groups are left out.
    """
    buckets: dict[str, list[tuple[str, nn.Parameter]]] = {"matrices": [], "slow": [], "plain": [], "": []}
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad:
            bucket = "plain" if id(parameter) in tables else _bucket(parameter_name, parameter)
            buckets[bucket].append((f"{name}.{parameter_name}", parameter))
    return [
        ParameterGroup(
            name=f"{name}/{bucket}" if bucket else name,
            parameters=parameters,
            lr_scale=lr_scale * (slow_scale if bucket == "slow" else 1.0),
            weight_decay=0.0 if bucket == "plain" else None,
            muon=bucket == "matrices",
        )
        for bucket, parameters in buckets.items()
        if parameters
    ]


def freeze(modules: Iterable[nn.Module]) -> None:
    """Take the modules out of training: no gradients."""
    for module in modules:
        module.requires_grad_(False)


def _bucket(name: str, parameter: nn.Parameter) -> str:
    if any(part in name for part in SLOW):
        return "slow"
    if parameter.ndim < 2 or any(part in name for part in (*EMBEDDINGS, "cls_token", "mask_token", "level_embed")):
        return "plain"
    # a matrix with a very short side (a head with one or four outputs) has nothing to orthogonalize
    return "matrices" if parameter.ndim == 2 and min(parameter.shape) >= 32 else ""
