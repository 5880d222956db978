"""Pictures behind https addresses: public hosts only, the address that was checked is the one that is asked.

https://host/path -> resolve -> every address public? -> connect to that address, verify the name -> redirect? again
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from groma.errors import InputError

MAX_REDIRECTS = 3
CHUNK_BYTES = 1 << 16

Resolver = Callable[[str], list[str]]
"""Name of a host -> its addresses."""


def resolve(host: str) -> list[str]:
    """Addresses of a host.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet, and to nothing at home."""
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if inner is not None:
        ip = inner
    if isinstance(ip, ipaddress.IPv6Address) and (ip.teredo is not None or ip in _NAT64):
        return False
    if any(ip in network for network in _NEVER if network.version == ip.version):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NEVER = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "fec0::/10", "3fff::/20", "2001:db8::/32", "64:ff9b:1::/48")))
"""Beyond what Python's table of the day knows: protocol assignments, site-local, documentation, local NAT64."""


class RemotePictures:
    """Fetches pictures."""

    def __init__(
        self,
        *,
        max_bytes: int,
        time_limit_s: float,
        resolver: Resolver = resolve,
        allowed: Callable[[str], bool] = is_public,
        port: int = 443,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Set the limits.

        Args:
            max_bytes: of a picture.
            time_limit_s: from the first look-up to the last byte.
            resolver: finds addresses.
            allowed: whether an address may be asked.
            port: that is asked; no other can be named.
            context: how certificates are verified; None: by the system's authorities.
        """
        self.max_bytes, self.time_limit_s = max_bytes, time_limit_s
        self.resolver, self.allowed, self.port = resolver, allowed, port
        self.context = context or ssl.create_default_context()

    def fetch(self, url: str) -> bytes:
        """The picture's bytes. It blocks: call it in a thread.

        Raises:
            InputError: the address cannot be used, or nothing came in time.
        """
        deadline = time.monotonic() + self.time_limit_s
        for _ in range(MAX_REDIRECTS + 1):
            host, target = self._checked(url)
            try:
                found = self._ask(host, target, deadline)
                if not isinstance(found, bytes):
                    found = urljoin(url, found)
            except InputError:
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise InputError(f"the picture at {host} could not be fetched: {_reason(error)}") from None
            if isinstance(found, bytes):
                return found
            url = found
        raise InputError(f"the picture's address leads on more than {MAX_REDIRECTS} times")

    def _checked(self, url: str) -> tuple[str, str]:
        """Host and path of an address that may be asked."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise InputError("the picture's address cannot be read") from None
        if parts.scheme != "https":
            raise InputError("a picture's address must begin with https://, or be a data URL")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise InputError("a picture's address needs a host, and no user in it")
        if port not in (None, 443):
            raise InputError(f"a picture's address may not name a port, but names {port}")
        path = parts.path or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        if not all("!" <= letter <= "~" for letter in target):
            raise InputError("a picture's address may only have plain ASCII characters: encode the others")
        if len(parts.hostname) > 253:
            raise InputError("the host of a picture's address has more than 253 characters")
        return parts.hostname, target

    def _ask(self, host: str, target: str, deadline: float) -> bytes | str:
        """The bytes, or where a redirect leads."""
        addresses = self.resolver(host)
        if not addresses or not all(map(self.allowed, addresses)):
            raise InputError(f"the picture's host {host} is not on the open internet: send the picture as a data URL")
        connection = _Pinned(host, addresses[0], self.port, _left(deadline), self.context)
        # timeouts of a socket begin anew with every byte: who sends one now and then would hold the thread for long
        timer = threading.Timer(_left(deadline), connection.cut)
        timer.start()
        try:
            headers = {"Accept": "image/*", "User-Agent": "groma", "Accept-Encoding": "identity"}
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return response.headers.get("Location") or ""
            if response.status != 200:
                raise InputError(f"the picture's host {host} answered with status {response.status}")
            return self._read(connection, response, host, deadline)
        except (OSError, http.client.HTTPException):
            connection.check()  # whatever it looks like, it was cut
            raise
        finally:
            timer.cancel()
            connection.close()

    def _read(self, connection: "_Pinned", response: http.client.HTTPResponse, host: str, deadline: float) -> bytes:
        chunks, size = list[bytes](), 0
        while True:
            connection.wait_at_most(_left(deadline))
            chunk = response.read1(CHUNK_BYTES)
            connection.check()
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
            if size > self.max_bytes:
                raise InputError(f"the picture at {host} has more than {self.max_bytes:,} bytes")


class _Pinned(http.client.HTTPSConnection):
    """A connection to an address that was checked, under the host's name."""

    def __init__(self, host: str, address: str, port: int, timeout_s: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout_s, context=context)
        self._address, self._verified = address, context
        self._plain: socket.socket | None = None
        self._cut = False

    def connect(self) -> None:
        """Connect to the address, not to what the name may mean by now."""
        self._plain = socket.create_connection((self._address, self.port), self.timeout)
        wrapped = self._verified.wrap_socket(self._plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = wrapped
        wrapped.do_handshake()
        self.check()  # cut during the handshake, what is wrapped now would know nothing of it

    def cut(self) -> None:
        """End it at once, from another thread."""
        self._cut = True
        for sock in (self.sock, self._plain):
            if sock is not None:
                with contextlib.suppress(OSError):
                    # the plain one: SSL's own would go on as if nothing were encrypted, under who reads
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def check(self) -> None:
        """TimeoutError if it was cut."""
        if self._cut:
            raise TimeoutError

    def wait_at_most(self, seconds: float) -> None:
        """For the next bytes."""
        if self.sock is not None:
            self.sock.settimeout(seconds)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(error: Exception) -> str:
    """Without addresses, which would tell what is inside."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, ssl.SSLError):
        return "its certificate or encryption is not accepted"
    if isinstance(error, socket.gaierror):
        return "the host is not known"
    return "the connection failed"
