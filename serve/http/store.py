"""Temporary store of the pictures that answers link to, under names that cannot be guessed."""

import asyncio
import io
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import fsspec

from serve.http.errors import NotFound

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_PARTIAL = ".partial"
_SWEEP_SECONDS = 60.0
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpeg|webp)")


class StoreError(ValueError):
    """The store cannot be used; the message names it."""


@dataclass(frozen=True)
class _Kept:
    bytes: int
    until: float  # Unix time in seconds


class Store:
    """Pictures in a folder or any fsspec file system; only one server may write to it.

    Files are written under a temporary name and moved, so readers never see half-written ones. Pictures of an
    earlier server are kept until they expire; its half-written files are removed.

    Args:
        url: a folder, or an fsspec URL.
        seconds: lifetime of a picture.
        limit: bytes kept at most; the oldest pictures are removed first.

    Raises:
        StoreError: the URL is unknown, or the folder cannot be created or listed.
    """

    def __init__(self, url: str, *, seconds: float, limit: int) -> None:
        self._seconds = seconds
        self._limit = limit
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # oldest first
        self._lock = threading.Lock()
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            self._files.makedirs(self._root, exist_ok=True)
            for found in sorted(self._files.ls(self._root, detail=True), key=lambda entry: entry.get("mtime", 0)):
                self._register(found)
        except (OSError, ValueError, ImportError) as error:
            raise StoreError(f"store: {url} cannot be used: {error}") from None

    async def put(self, content: bytes, suffix: str) -> str:
        """Store a picture and return its name; cancelling the call does not stop the write.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        name = f"{secrets.token_urlsafe(24)}.{suffix}"
        await asyncio.to_thread(self._keep, name, content)
        return name

    async def sweep(self) -> None:
        """Remove expired and surplus pictures periodically; never returns."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self._seconds))
            await asyncio.to_thread(self._remove_surplus)

    async def get(self, name: str) -> bytes:
        """Read a picture by its name.

        Raises:
            NotFound: no such picture, or it has expired.
        """
        kept = self._kept.get(name)
        if not _NAME.fullmatch(name) or kept is None or kept.until < time.time():
            raise NotFound(f"no picture {name!r} here, or not any more")
        try:
            content: bytes = await asyncio.to_thread(self._files.cat_file, f"{self._root}/{name}")
        except FileNotFoundError:
            raise NotFound(f"no picture {name!r} here, or not any more") from None
        return content

    def _register(self, found: dict[str, object]) -> None:
        path = str(found["name"])
        name = path.rpartition("/")[2]
        if _NAME.fullmatch(name):
            size, written = found.get("size"), found.get("mtime")
            since = written if isinstance(written, int | float) else time.time()
            self._kept[name] = _Kept(size if isinstance(size, int) else 0, since + self._seconds)
        elif _NAME.fullmatch(name.removesuffix(_PARTIAL)):
            self._files.rm_file(path)

    def _keep(self, name: str, content: bytes) -> None:
        partial = f"{self._root}/{name}{_PARTIAL}"
        try:
            with self._files.open(partial, "wb") as file:
                file.write(content)
                file.flush()
                with suppress(AttributeError, io.UnsupportedOperation):  # only local files have a descriptor
                    os.fsync(file.fileno())
            self._files.mv(partial, f"{self._root}/{name}")
        except BaseException:
            with suppress(OSError):
                self._files.rm_file(partial)
            raise
        with self._lock:
            self._kept[name] = _Kept(len(content), time.time() + self._seconds)
        self._remove_surplus()

    def _remove_surplus(self) -> None:
        """Remove expired pictures, and the oldest while over the byte limit; the newest stays until it expires."""
        with self._lock:
            total = sum(kept.bytes for kept in self._kept.values())
            gone = []
            for name, kept in list(self._kept.items()):
                if kept.until >= time.time() and (total <= self._limit or len(self._kept) == 1):
                    break
                del self._kept[name]
                total -= kept.bytes
                gone.append(name)
        for name in gone:
            with suppress(OSError):  # already removed, or cannot be
                self._files.rm_file(f"{self._root}/{name}")
