"""uvicorn's HTTP protocol with bounds on what a client sends and on how long it takes.

uvicorn has none of its own, and its parser collects a header until it ends: one of 200 MiB takes as much memory, and time
that grows with the square of its length, in which nobody else is answered.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serve.http.connections.census import Census
from serve.http.connections.incoming import Incoming
from serve.http.connections.reader import Reader
from serve.http.connections.refusal import refusal
from serve.http.connections.timer import Timer
from serve.http.errors import ApiError, Crowded, InvalidRequest

_LINGER_SECONDS = 2.0  # for reading a refusal; a connection that is closed with data unread would lose it


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    A timer runs while something of the request is missing, or while the client does not read; none runs during an answer.

    A request that follows before the last one is answered (pipelining, which no client uses) is not answered: the
    connection ends with the answer, and the client sends it again, as RFC 9112 section 9.3.2 asks.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(server_state, Census)
        self._census = server_state
        self._limits = server_state.limits
        self._lingering = Timer(self.loop)
        self._incoming: Incoming
        self._reader: Reader
        self._ending = False  # what comes is no longer parsed

    # of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._incoming = Incoming(self._limits, self.loop, self.flow)
        self._reader = Reader(transport, self.loop, self._limits.body_seconds)
        if (crowded := self._census.enter(self._address)) is not None:
            self._refuse(crowded)
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._incoming.stop()
        self._lingering.stop()
        self._reader.stop()
        self._census.leave(self, self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._unset_keepalive_if_required()
        if self._incoming.part == "idle":
            self._expect_head()
        before = self._incoming.progress
        try:
            self.parser.feed_data(data)
            if self._incoming.progress == before:
                self._incoming.add_unparsed(len(data))
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not asked for another protocol
        except httptools.HttpParserError as error:
            self._refuse(_raised_by_callback(error) or InvalidRequest("this is not an HTTP request"))
        except ApiError as error:
            self._refuse(error)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._ending or self.transport.is_closing():
            self._reader.watch()  # the rest is to be read, too, before the connection is closed
        else:
            self._reader.stop()

    # of the parser

    def on_message_begin(self) -> None:
        if self._incoming.part == "idle":
            self._expect_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._incoming.add_field(len(url), headers=0)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._incoming.add_field(len(name) + len(value), headers=1)
        if self._incoming.part == "head":  # not a trailer: uvicorn would add it to the headers of the running request
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._answering:
            raise ValueError("a request before the answer to the last one")
        super().on_headers_complete()
        self._incoming.expect_body(self._late)
        self._census.owes(self)

    def on_body(self, body: bytes) -> None:
        self._incoming.add_body(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._incoming.complete()
        if self._answering:
            self._census.settled(self)
        else:
            self._census.owes(self)  # it was answered before it was complete
        super().on_message_complete()

    # of uvicorn

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._reader.watch()
        elif self._ending:
            self._end()
        elif self._incoming.part != "body":
            self._census.owes(self)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._reader.watch()

    # of the census

    def give_way(self) -> None:
        """End for the sake of a new connection, unless an answer is under way."""
        if self._lingering.runs:
            self.transport.abort()
        elif self._incoming.part == "idle":
            self._ending = True
            self._end()
        else:
            self._refuse(Crowded(f"over {self._limits.connections} open connections, and this one was waited for"))

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    @property
    def _answering(self) -> bool:
        """Whether the application has a request whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._incoming.expect_head(self._late)
        if not self._answering:
            self._census.owes(self)

    def _late(self, why: ApiError) -> None:
        if self._incoming.part == "body" or self._incoming.begun or self._answering:
            self._refuse(why)
        else:
            self.transport.close()  # browsers connect ahead of any request, and would take an answer for that of the next

    def _refuse(self, why: ApiError) -> None:
        """Answer with an error and end; if an answer is under way, end with it."""
        self._ending = True
        self._incoming.stop()
        self._census.settled(self)
        if self.transport.is_closing():
            return
        self._census.refused(why.status)
        if self._answering:
            if self.cycle.response_started or not self.cycle.more_body:
                return
            self.cycle.disconnected = True  # the application need not wait for the rest
            self.cycle.message_event.set()
        if self._incoming.part != "body" or self.cycle.disconnected:  # else it has had its answer
            self.transport.write(refusal(why, self.server_state.default_headers))
        self._end()

    def _end(self) -> None:
        """Close once the client has had time to read what is written."""
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            self._reader.watch()
        else:
            self._census.lingers(self)
            self._lingering.start(_LINGER_SECONDS, self.transport.abort)
        self.transport.write_eof()


def _raised_by_callback(error: httptools.HttpParserError) -> ApiError | None:
    """Refusal that a callback of the parser has raised, if that is why the parser has failed."""
    return error.__context__ if isinstance(error.__context__, ApiError) else None
