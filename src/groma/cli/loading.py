"""The options that every command with a model has, and loading it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from groma.inference.assistant import Groma

DEFAULT_MODEL = "groma-tiny"

ModelName = Annotated[str, tyro.conf.arg(metavar="MODEL")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a model runs and with which arithmetic."""

    device: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None
    """Where the model runs, e.g. cpu, cuda, cuda:1 or mps. None: CUDA if there is one, else the CPU."""
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "stored"] | None,
        tyro.conf.arg(metavar="{float32,bfloat16,float16,stored}"),
    ] = None
    """Arithmetic of the model; stored: as in its files. None: float32, but bfloat16 for large models on a GPU."""

    def load(self, name: str) -> "Groma":
        """`groma.load`, with a spinner on standard error if somebody is looking.

        Raises:
            GromaError: There is no such model, it is damaged, or the device does not exist.
        """
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(f"loading {name}")):
            from groma.pretrained import load

            return load(name, device=self.device, dtype=self.dtype)
