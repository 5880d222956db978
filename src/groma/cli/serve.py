"""Command `groma serve`: an API that OpenAI's clients speak, plain addresses for boxes, and a page."""

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from groma.cli.arguments import Switch, check_count, named_values
from groma.cli.loading import DEFAULT_MODEL, Placement
from groma.cli.output import note
from groma.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from groma.engine.engine import Engine
    from groma.inference.assistant import Groma
    from groma.inference.decoder import Backend
    from groma.inference.prefix import PrefixStore
    from groma.serve.metrics import Metrics
    from groma.serve.settings import ServeSettings

NEEDED = ("fastapi", "uvicorn", "multipart", "prometheus_client")
"""Modules of the extra."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is taken at most."""

    max_batch: int = 32
    """Answers that are said side by side."""
    max_queue: int = 256
    """Questions that wait; one client may hold half of them."""
    picture_cache_mib: int = 1024
    """Memory for pictures that were seen."""
    prefix_cache_mib: int = 1024
    """Memory, where the model is, for conversations that were read."""
    max_picture_mib: int = 20
    """Size of a picture's file."""
    max_megapixels: float = 50.0
    """Pixels of a picture, counted before it is decoded."""
    time_limit: float = 120.0
    """Seconds in which a question has to be answered."""
    upload_time: float = 30.0
    """Seconds in which a request has to arrive."""
    drain_time: float = 30.0
    """Seconds that running questions get when the server is told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """Answer over HTTP: the API of OpenAI's clients with regions and grounding, and a page at /.

    API keys are read from GROMA_API_KEYS (separated by commas) or a file, never from the command line.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    host: str = "127.0.0.1"
    """Address to listen at; beyond this machine only with keys, or --open-to-all."""
    port: int = 8000
    """Port; 0: any that is free."""
    name: str | None = None
    """The model's name in the API; None: that of MODEL."""
    api_key_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A file with one key a line."""
    open_to_all: Switch = False
    """Let other machines in without keys."""
    cors_origin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An origin whose web pages may call, such as https://example.org; may be repeated."""
    trusted_host: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A further name by which this server is called, such as groma.example.org; may be repeated."""
    remote_pictures: Switch = False
    """Fetch pictures from https addresses, of public hosts only."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    threads: int | None = None
    """Cores for the model on a CPU. None: all but one, which is left for the rest of the server."""
    vllm: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Let vLLM speak, with the language model that `groma export-language` wrote to this folder."""
    vllm_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """A further argument of vLLM's engine, such as gpu_memory_utilization=0.5; may be repeated."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Which logs are written, one JSON object a line, to standard error."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)

    def run(self) -> int:
        """Serve until told to stop."""
        megapixels = self.limits.max_megapixels
        if not 0 < megapixels <= 1e6:
            raise InputError(f"--max-megapixels must be above 0 and at most a million, not {megapixels}")
        if self.threads is not None:
            check_count(self.threads, "--threads")
        self._vllm_options()
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise MissingExtraError(f"groma serve needs {', '.join(missing)}: pip install 'groma[serve]'")
        settings = self.settings()
        from groma.pretrained import load_interface
        from groma.serve.run import listen, log_to_stderr, serve
        from groma.serve.service import Service

        load_interface(self.model)  # a name that cannot be loaded is refused at once
        log_to_stderr(self.log_level)
        name = self.name or Path(self.model).name or self.model
        sock = listen(settings)
        address = sock.getsockname()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        note(f"serving {name} at http://{host}:{address[1]} (page at /, API at /docs); Ctrl-C stops")
        serve(Service(settings, self._engine, model_name=name), sock)
        return 0

    def settings(self) -> "ServeSettings":
        """What the server is told.

        Raises:
            InputError: something of it cannot be.
        """
        from groma.serve.settings import MAX_HELD_BYTES, ServeSettings

        limits = self.limits
        # a picture grows by a third as a data URL, and something is said about it
        max_body_bytes = limits.max_picture_mib * MIB * 4 // 3 + 2 * MIB
        return ServeSettings(
            host=self.host,
            port=self.port,
            api_keys=read_keys(self.api_key_file),
            open_to_all=self.open_to_all,
            cors_origins=self.cors_origin,
            trusted_hosts=self.trusted_host,
            max_body_bytes=max_body_bytes,
            max_held_bytes=max(MAX_HELD_BYTES, 4 * max_body_bytes),
            max_picture_bytes=limits.max_picture_mib * MIB,
            upload_time_s=limits.upload_time,
            time_limit_s=limits.time_limit,
            drain_time_s=limits.drain_time,
            remote_pictures=self.remote_pictures,
        )

    def _engine(self, metrics: "Metrics") -> "Engine":
        """Load the model; in the server's own thread for it."""
        import torch

        from groma.engine.engine import Engine, EngineSettings

        limits = self.limits
        settings = EngineSettings(
            max_batch=limits.max_batch,
            max_queue=limits.max_queue,
            picture_cache_bytes=limits.picture_cache_mib * MIB,
            prefix_cache_bytes=limits.prefix_cache_mib * MIB,
            max_pixels=int(limits.max_megapixels * 1e6),
        )
        torch.set_num_threads(self.threads or max(1, (os.cpu_count() or 1) - 1))
        assistant = self.placement.load(self.model)
        return Engine(assistant, settings, backend=self._backend(assistant), observer=metrics)

    def _backend(self, assistant: "Groma") -> "Callable[[PrefixStore], Backend] | None":
        """What generates; None: the model itself."""
        if self.vllm is None:
            return None
        from groma.engine.vllm_backend import VLLMBackend

        backend = VLLMBackend(
            self.vllm,
            tokens=assistant.tokenizer.special,
            stop_ids=assistant.stop_ids,
            silent_ids=assistant.silent_ids,
            options={"max_num_seqs": self.limits.max_batch} | self._vllm_options(),
        )
        return lambda _: backend  # vLLM keeps prefixes by itself

    def _vllm_options(self) -> dict[str, Any]:
        """Further arguments of vLLM's engine.

        Raises:
            InputError: there are some, but no vLLM, or one cannot be read.
        """
        if self.vllm_option and self.vllm is None:
            raise InputError("--vllm-option is for vLLM alone: give --vllm, too")
        return named_values(self.vllm_option, "--vllm-option")


def read_keys(file: Path | None) -> tuple[str, ...]:
    """Keys of the environment and of a file.

    Raises:
        InputError: the file cannot be read, or has none.
    """
    keys = [key.strip() for key in os.environ.get("GROMA_API_KEYS", "").split(",")]
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            lines = [line for line in lines if line and not line.startswith("#")]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the keys in {str(file)!r} cannot be read: {error}") from None
        if not lines:
            raise InputError(f"the file {str(file)!r} has no keys: write one a line")
        keys += lines
    return tuple(dict.fromkeys(key for key in keys if key))
