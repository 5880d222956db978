"""How a server is run: safe unless told otherwise."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from groma.errors import InputError

MIB = 1 << 20
MAX_HELD_BYTES = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Limits of the outside; those of the engine are `groma.engine.engine.EngineSettings`."""

    host: str = "127.0.0.1"
    """Address to listen at; anything but loopback needs keys, or `open_to_all`."""
    port: int = 8000
    """Port; 0: any that is free."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys that are taken; none: no key is asked for."""
    open_to_all: bool = False
    """Listen beyond this machine without keys."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call, such as https://example.org; none: only the page of this server."""
    trusted_hosts: tuple[str, ...] = ()
    """Further names by which this server is called (the Host header); the address it listens at is one, and so is
    localhost; "*": any."""
    max_body_bytes: int = 28 * MIB
    """Bytes of a request."""
    max_held_bytes: int = MAX_HELD_BYTES
    """Bytes of all requests together that have arrived and are not answered yet."""
    max_picture_bytes: int = 20 * MIB
    """Bytes of a picture's file."""
    max_pictures: int = 8
    """Pictures that a question may be about."""
    max_messages: int = 200
    """Messages of a conversation."""
    upload_time_s: float = 30.0
    """Seconds in which a request has to arrive."""
    time_limit_s: float = 120.0
    """Seconds in which a question has to be answered."""
    drain_time_s: float = 30.0
    """Seconds that running questions get when the server is told to stop."""
    max_connections: int = 1000
    """Connections at once."""
    remote_pictures: bool = False
    """Fetch https addresses of pictures, of public hosts only."""
    remote_time_s: float = 10.0
    """Seconds in which a picture has to be fetched."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port is {self.port}, expected 0 to 65535")
        for name in (
            "max_body_bytes",
            "max_held_bytes",
            "max_picture_bytes",
            "max_pictures",
            "max_messages",
            "max_connections",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_held_bytes < self.max_body_bytes:
            raise InputError(f"max_held_bytes must be max_body_bytes ({self.max_body_bytes:,}) at least")
        for name in ("upload_time_s", "time_limit_s", "drain_time_s", "remote_time_s"):
            if not 0 < getattr(self, name) <= 1e6:
                raise InputError(f"{name} must be above 0 and at most a million seconds, not {getattr(self, name)}")
        check_keys(self.api_keys)
        if not (is_loopback(self.host) or self.api_keys or self.open_to_all):
            raise InputError(
                f"host {self.host} lets other machines in: ask for keys (GROMA_API_KEYS or --api-key-file), or say "
                "--open-to-all"
            )
        for origin in self.cors_origins:
            if origin == "*" or not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise InputError(f"cors origin {origin!r} is not an origin such as https://example.org")

    @property
    def hosts(self) -> frozenset[str]:
        """Names that the Host header may have, without port; "*": any."""
        wildcard = self.host in ("0.0.0.0", "::", "")  # compared, not listened at
        own = {"*"} if wildcard and not self.trusted_hosts else {self.host.strip("[]").lower()}
        return frozenset(own | {"localhost", "127.0.0.1", "::1"} | {name.lower() for name in self.trusted_hosts})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_keys(keys: Sequence[str]) -> None:
    """See whether keys can be sent in a header.

    Raises:
        InputError: one is too short or has other characters than a header takes.
    """
    for number, key in enumerate(keys, start=1):
        if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(f"API key {number} must have at least 16 characters, all ASCII and no blanks")


def is_key(given: str, keys: Sequence[str]) -> bool:
    """Whether a key is one of those; how long that takes does not tell how near it was."""
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
    found = False
    for key in keys:
        found |= hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest())
    return found
