"""Cancellation of work when the client disconnects."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class ClientGone(Exception):
    """The client has disconnected."""


async def cancel_on_disconnect(connection: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; cancel it when the client disconnects.

    Raises:
        ClientGone: the client disconnected first.
    """

    async def disconnected() -> None:
        while (await connection.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
