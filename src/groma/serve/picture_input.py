"""Where a request's pictures come from: data URLs, form files, https where it is allowed. Decoded in few threads."""

import asyncio
import base64
import binascii
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from groma.engine.engine import Engine
from groma.engine.pictures import Picture
from groma.errors import InputError
from groma.image_file import ICON
from groma.serve.errors import HttpError
from groma.serve.remote import RemotePictures
from groma.serve.settings import ServeSettings

T = TypeVar("T")

_DATA_URL = re.compile(r"(?ai)data:(?P<type>[\w.+/-]*)(?P<options>(;[\w=.+-]+)*?)(?P<base64>;base64)?,")

_DETAIL = re.compile(r" \(.*\)$", re.DOTALL)


class PictureInput:
    """Opens pictures for one server. Bytes are decoded in as many threads as there are cores, no more."""

    def __init__(self, settings: ServeSettings) -> None:
        """Set the limits."""
        self.settings = settings
        self._decoding = ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1)), thread_name_prefix="groma-picture")
        self._fetching = ThreadPoolExecutor(8, thread_name_prefix="groma-fetch")
        self._remote = RemotePictures(max_bytes=settings.max_picture_bytes, time_limit_s=settings.remote_time_s)

    def close(self) -> None:
        """End the threads."""
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._fetching.shutdown(wait=False, cancel_futures=True)

    async def from_url(self, url: str, engine: Engine) -> Picture:
        """A data URL, or an https address where that is allowed.

        Raises:
            HttpError: it cannot be used.
            InputError: it is no picture that can be read.
        """
        if url[:5].lower() == "data:":
            return await self._decode(lambda: self._opened(self._decoded(url), engine))
        if not self.settings.remote_pictures:
            raise HttpError(
                400, "a picture must be a data URL (data:image/png;base64,...): this server fetches none", param="image"
            )
        limit_s = self.settings.remote_time_s + 0.5  # threads may all be taken by slow hosts
        try:
            content = await asyncio.wait_for(self._run(self._fetching, lambda: self._remote.fetch(url)), limit_s)
        except TimeoutError:
            raise HttpError(400, f"the picture could not be fetched within {limit_s:g} s", param="image") from None
        return await self.from_bytes(content, engine)

    async def from_bytes(self, content: bytes, engine: Engine) -> Picture:
        """A picture file's bytes.

        Raises:
            HttpError: it is too large.
            InputError: it is no picture that can be read.
        """
        self._check_size(len(content))
        return await self._decode(lambda: self._opened(content, engine))

    async def _decode(self, work: Callable[[], Picture]) -> Picture:
        """Who waits too long for a thread is told so, and needs none any more."""
        limit_s = self.settings.time_limit_s
        try:
            return await asyncio.wait_for(self._run(self._decoding, work), limit_s)
        except TimeoutError:
            raise HttpError(504, f"the picture was not decoded within {limit_s:g} s", param="image") from None

    @staticmethod
    def _opened(content: bytes, engine: Engine) -> Picture:
        if content.startswith(ICON):  # Pillow decodes what they hold while it opens them, where all others wait
            raise HttpError(400, "an icon cannot be sent: give the picture as PNG or JPEG", param="image")
        try:
            return engine.picture(content)
        except InputError as error:  # what Pillow says of damaged files, in brackets, names its own parts
            raise HttpError(400, _DETAIL.sub("", str(error)), param="image") from None

    def _decoded(self, url: str) -> bytes:
        match = _DATA_URL.match(url[:200])
        if match is None or not match["base64"]:
            raise HttpError(400, "a data URL must look like data:image/png;base64,...", param="image")
        text = url[match.end() :]
        self._check_size(len(text) * 3 // 4 - 2)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise HttpError(400, "a data URL's picture is not valid base64", param="image") from None

    def _check_size(self, count: int) -> None:
        limit = self.settings.max_picture_bytes
        if count > limit:
            raise HttpError(413, f"a picture has about {count:,} bytes, but at most {limit:,} are taken", param="image")

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
