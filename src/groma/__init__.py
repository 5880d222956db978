"""Groma: a grounded multimodal assistant.

    image -> encoder -> proposer -> selection -> region encoder -> prompt -> LLM -> grounded answer
    bytes -> annotation -> dialogue -> tokens, labels, slots -> batch -> stage -> checkpoint -> benchmark

    import groma

    model = groma.load("groma-tiny")
    print(model.ask("picture.png", "What is in the picture?"))

The method is Groma, "Localized Visual Tokenization" (arXiv 2404.13013). Importing the package is light: what needs
torch is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from groma.errors import CheckpointError, GromaError, InputError, MissingExtraError

if TYPE_CHECKING:
    from groma.inference.assistant import Groma, Seen
    from groma.inference.conversation import Conversation
    from groma.inference.generate import Decoding
    from groma.inference.result import Entity, GroundedAnswer, Region
    from groma.pretrained import load, save

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Conversation",
    "Decoding",
    "Entity",
    "Groma",
    "GromaError",
    "GroundedAnswer",
    "InputError",
    "MissingExtraError",
    "Region",
    "Seen",
    "__version__",
    "load",
    "save",
]

_LAZY = {
    "Conversation": "groma.inference.conversation",
    "Decoding": "groma.inference.generate",
    "Entity": "groma.inference.result",
    "Groma": "groma.inference.assistant",
    "GroundedAnswer": "groma.inference.result",
    "Region": "groma.inference.result",
    "Seen": "groma.inference.assistant",
    "load": "groma.pretrained",
    "save": "groma.pretrained",
}
"""Name -> module that it is imported from at its first use."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'groma' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
