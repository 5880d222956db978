"""Talks to an OpenAI-compatible endpoint: a request's fields -> a reply, or a fault that says what to do about it.

The `openai` package is imported here and nowhere else, once it is needed. Its own retries are switched off: every try
must wait its turn and fit the budget, and a "too many requests" must hold all workers, not one (groma.curate.asking).
Answers are read leniently, as compatible servers leave out what they like.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

from groma.curate.ledger import Reply, Tokens
from groma.errors import GromaError, InputError, MissingExtraError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
MODEL_VARIABLE = "OPENAI_MODEL"
DEFAULT_URL = "https://api.openai.com/v1"

FATAL_STATUS = {401: "the key was not accepted", 402: "the account has no money left", 404: "there is no such address"}
"""Status codes after which every further request would end alike."""
FATAL_CODES = ("insufficient_quota", "billing_hard_limit_reached", "model_not_found", "invalid_api_key")
"""Error codes with the same meaning, whatever the status."""
RETRIED_STATUS = (408, 409, 425, 429)
"""Status codes below 500 after which the same request may succeed."""
PERHAPS_PAID_STATUS = (408, 502, 504)
"""Status codes of gateways that gave up waiting: the model may have answered behind them."""


class EndpointError(GromaError):
    """A request was not answered.

    Attributes:
        kind: "timeout", "connection", "truncated", "bad_reply" or the status code as text; for counting.
        is_fatal: Every further request would end alike.
        may_retry: The same request may succeed.
        may_be_paid: The model may have answered; the answer was lost on its way.
        wait_s: Seconds that the endpoint wants to be left alone, if it says so.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        is_fatal: bool = False,
        may_retry: bool = False,
        may_be_paid: bool = False,
        wait_s: float | None = None,
    ) -> None:
        """See the attributes."""
        super().__init__(message)
        self.kind = kind
        self.is_fatal = is_fatal
        self.may_retry = may_retry
        self.may_be_paid = may_be_paid
        self.wait_s = wait_s


class Endpoint(Protocol):
    """Whatever can be asked."""

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """Send a request and wait for the whole answer.

        Args:
            body: Fields of a chat completion.

        Raises:
            EndpointError: There is no answer; says what may be done.
        """
        ...

    async def close(self) -> None:
        """Let go of its connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the endpoint is and how one gets in."""

    url: str
    """Address up to and including the version, e.g. https://api.openai.com/v1."""
    key: str
    """The key; empty where none is needed. Never written anywhere."""

    def __repr__(self) -> str:
        return f"Access(url={self.shown_url!r})"

    @property
    def shown_url(self) -> str:
        """The address without a password or a query, for people and files."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return urlunsplit((parts.scheme, host + port, parts.path, "", ""))


def find_access(*, url: str | None, key_variable: str = KEY_VARIABLE) -> Access:
    """Where to ask: the given address, else that in OPENAI_BASE_URL, else OpenAI's own; the key comes from a variable.

    Args:
        url: The address, if it is given.
        key_variable: Name of the environment variable with the key.

    Raises:
        InputError: The address is none, or OpenAI's own endpoint is meant and there is no key.
    """
    address = (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"the endpoint {address!r} is no address: give one like {DEFAULT_URL}")
    key = os.environ.get(key_variable, "").strip()
    if not key and address == DEFAULT_URL:
        raise InputError(f"{address} needs a key: set the environment variable {key_variable}, or give another address")
    return Access(url=address, key=key)


class OpenAIEndpoint:
    """An endpoint that speaks OpenAI's chat completions."""

    def __init__(self, access: Access, *, timeout_s: float, stream: bool = False) -> None:
        """Prepare; nothing is sent yet.

        Args:
            access: Where to ask.
            timeout_s: Seconds to wait for a whole answer.
            stream: Let answers come piece by piece.

        Raises:
            MissingExtraError: The package `openai` is not installed.
        """
        self._access = access
        self._timeout_s = timeout_s
        self._stream = stream
        self._client = _client(access, timeout_s)

    async def close(self) -> None:
        """See `Endpoint`."""
        await self._client.close()

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """See `Endpoint`."""
        import openai

        try:
            # the client's own limit counts from one piece of an answer to the next: a slow drip would never end
            async with asyncio.timeout(self._timeout_s):
                return await (self._ask_streamed(body) if self._stream else self._ask_whole(body))
        except (TimeoutError, openai.APITimeoutError):
            told = f"no whole answer within {self._timeout_s:g} s"
            raise EndpointError(told, kind="timeout", may_retry=True, may_be_paid=True) from None
        except openai.APIStatusError as error:
            raise self._of_status(error) from None
        except openai.APIConnectionError as error:
            raise _of_connection(error) from None
        except openai.APIError as error:  # an error in the middle of a stream
            raise EndpointError(self._told(error.message), kind="error_in_stream", may_retry=True) from None
        except _transport_errors() as error:
            raise _of_connection(error) from None
        except ValueError as error:  # what came is no JSON, or no UTF-8
            told = f"the answer is damaged: {error}"
            raise EndpointError(self._told(told), kind="truncated", may_retry=True, may_be_paid=True) from None

    async def _ask_whole(self, body: Mapping[str, Any]) -> Reply:
        create: Any = self._client.chat.completions.with_raw_response.create
        response: Any = await create(**_arguments(body))
        answer: Any = json.loads(response.content)
        self._check_for_error(answer)
        return whole_reply(answer)

    async def _ask_streamed(self, body: Mapping[str, Any]) -> Reply:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        create: Any = self._client.chat.completions.create
        pieces: AsyncIterator[Any] = await create(**_arguments({**body, **options}))
        gathered = _Gathered()
        async for piece in pieces:
            gathered.add(piece.model_dump(warnings=False))
        return gathered.reply()

    def _check_for_error(self, answer: Any) -> None:
        """Some gateways send an error as an answer with status 200."""
        error = cast(dict[str, Any], answer).get("error") if isinstance(answer, dict) else None
        if error:
            told = f"the endpoint answered with an error: {_short(error)}"
            raise EndpointError(self._told(told), kind="error_in_reply", may_retry=True)

    def _of_status(self, error: "APIStatusError") -> EndpointError:
        status = error.status_code
        told = self._told(f"{self._access.shown_url} answered {status}: {_short(_message_in(error))}")
        if status in FATAL_STATUS or error.code in FATAL_CODES:
            why = FATAL_STATUS.get(status, "no further request would be answered")
            return EndpointError(f"{told} ({why})", kind=str(status), is_fatal=True)
        return EndpointError(
            told,
            kind=str(status),
            may_retry=status in RETRIED_STATUS or status >= 500,
            may_be_paid=status in PERHAPS_PAID_STATUS,
            wait_s=retry_after_s(error.response.headers, datetime.now(UTC)),
        )

    def _told(self, text: str) -> str:
        """A sentence that surely does not hold the key, whatever the endpoint echoes."""
        return text.replace(self._access.key, "***") if self._access.key else text


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """How many seconds an endpoint asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

    Args:
        headers: Of the answer, with names in lower case or ignoring case.
        now: The time, with its zone.
    """
    milliseconds, text = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if text is None else max(0.0, float(text))
    except ValueError:
        pass  # a date, then
    try:
        return max(0.0, (parsedate_to_datetime(text or "") - now).total_seconds())
    except (ValueError, TypeError):  # neither: as if nothing had been said
        return None


def whole_reply(answer: Any) -> Reply:
    """The reply in the JSON of a chat completion.

    Raises:
        EndpointError: It has no message.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        finish = choice.get("finish_reason") or "stop"
        content = _text(message.get("content"))
        refusal = message.get("refusal") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        told = f"the answer is no chat completion ({type(error).__name__}: {error}): {_short(answer)}"
        raise EndpointError(told, kind="bad_reply", may_retry=True, may_be_paid=True) from None
    return Reply(
        content=content,
        finish=str(finish),
        refusal=str(refusal),
        tokens=_tokens(answer.get("usage")),
        model=str(answer.get("model") or ""),
    )


class _Gathered:
    """The pieces of a streamed answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._finish = ""
        self._tokens: Tokens | None = None
        self._model = ""

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take in the next piece.

        Raises:
            EndpointError: It is none.
        """
        try:
            self._add(piece)
        except (TypeError, AttributeError) as error:
            told = f"a piece of the answer is none ({type(error).__name__}: {error}): {_short(piece)}"
            raise EndpointError(told, kind="bad_reply", may_retry=True, may_be_paid=True) from None

    def _add(self, piece: Mapping[str, Any]) -> None:
        self._model = str(piece.get("model") or self._model)
        self._tokens = _tokens(piece.get("usage")) or self._tokens
        choices: list[dict[str, Any]] = piece.get("choices") or []
        for choice in choices:
            delta: dict[str, Any] = choice.get("delta") or {}
            self._texts.append(_text(delta.get("content")))
            self._refusals.append(str(delta.get("refusal") or ""))
            self._finish = str(choice.get("finish_reason") or self._finish)

    def reply(self) -> Reply:
        """The whole answer.

        Raises:
            EndpointError: Its end is missing.
        """
        if not self._finish:  # a connection that ends early looks like the end of a stream
            told = f"the stream ended in the middle of the answer, after {len(''.join(self._texts))} characters"
            raise EndpointError(told, kind="truncated", may_retry=True, may_be_paid=True)
        return Reply(
            content="".join(self._texts),
            finish=self._finish,
            refusal="".join(self._refusals),
            tokens=self._tokens,
            model=self._model,
        )


def _client(access: Access, timeout_s: float) -> "AsyncOpenAI":
    try:
        from openai import AsyncOpenAI
    except ImportError:
        raise MissingExtraError("asking an endpoint needs the package openai: pip install 'groma[curate]'") from None
    # servers of one's own want no key, but the client wants to send one
    return AsyncOpenAI(base_url=access.url, api_key=access.key or "none", timeout=timeout_s, max_retries=0)


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request as the client takes them; those that it may not know go in as they are."""
    known = ("model", "messages", "stream", "stream_options")
    arguments = {name: body[name] for name in known if name in body}
    return {**arguments, "extra_body": {name: value for name, value in body.items() if name not in known}}


def _transport_errors() -> tuple[type[Exception], ...]:
    """Errors of the HTTP package below the client: releases before 3 let them through in the middle of a stream."""
    packages = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return tuple(package.TransportError for package in packages)


def _of_connection(error: Exception) -> EndpointError:
    """A connection that was not made, or broke while the answer was on its way."""
    cause = error.__cause__ or error
    made = "Connect" not in type(cause).__name__
    told = f"the connection broke ({type(cause).__name__}: {cause})" if made else f"no connection ({cause})"
    return EndpointError(told, kind="connection", may_retry=True, may_be_paid=made)


def _message_in(error: "APIStatusError") -> Any:
    """What an endpoint says in its error, wherever it says it."""
    body: Any = error.body
    if isinstance(body, dict):
        fields = cast(dict[str, Any], body)
        return fields.get("message") or fields.get("error") or fields
    return body or error.message


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 300 else text[:297] + "..."


def _text(content: Any) -> str:
    """A message's text, also where it comes in parts."""
    if isinstance(content, list):
        parts = cast(list[dict[str, Any]], content)
        return "".join(str(part.get("text") or "") for part in parts)
    return str(content or "")


def _tokens(usage: Any) -> Tokens | None:
    """What a request cost, if the endpoint says so."""
    if not isinstance(usage, dict):
        return None
    fields = cast(dict[str, Any], usage)
    question, answer = fields.get("prompt_tokens"), fields.get("completion_tokens")
    if not isinstance(question, int) or not isinstance(answer, int):
        return None
    return Tokens(question, answer)
