"""Clients that go away while something is done for them."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from groma.serve.errors import GONE, HttpError

T = TypeVar("T")

LOOK_S = 0.1


async def unless_gone(coming: Awaitable[T], request: Request) -> T:
    """What comes, if the client waits for it; otherwise it is cancelled.

    Only for requests whose body was read: whether a client is there is told where its body comes from.

    Raises:
        HttpError: the client went away.
    """
    wanted, left = asyncio.ensure_future(coming), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((wanted, left), return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise HttpError(GONE, "the client has gone")
        return wanted.result()
    finally:
        left.cancel()
        wanted.cancel()


async def _gone(request: Request) -> None:
    """Return when the client has gone away."""
    while not await request.is_disconnected():
        await asyncio.sleep(LOOK_S)
