"""The upscaler's process: load a network, enlarge one picture after the other, end with the server."""

import logging
import os
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

import torch

from model.errors import first_line
from serve.child_process import listen
from serve.logs import set_up_logging
from serve.upscaling.messages import Cancel, LoadNetwork, NetworkLoaded, NotUpscaled, Upscale, Upscaled
from serve.upscaling.network import Network, load_network

logger = logging.getLogger("focusdiff")
_NICE = 10  # engines come first


class _Cancelled(Exception):
    """The picture is no longer wanted."""


def run(connection: "Connection[object, object]") -> None:
    """Everything the process does; see `serve.upscaling.messages` for what it receives and sends."""
    os.nice(_NICE)
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    with suppress(EOFError, OSError):  # the server is gone
        order = connection.recv()
        assert isinstance(order, LoadNetwork)
        set_up_logging(level=order.log_level, format=order.log_format)
        desk = _Desk()
        listen(connection, desk.take)
        try:
            network = load_network(order.file, order.device)
        except ValueError as error:
            connection.send(error)
            return
        connection.send(NetworkLoaded(network.architecture, network.scale))
        while True:
            connection.send(desk.serve(network))


class _Desk:
    """Orders for the network: their numbers rise, and each comes after the answer to the one before."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[Upscale] = SimpleQueue()
        self._cancelled = -1  # the highest number; lower ones were answered before

    def take(self, message: object) -> None:
        """Take a message of the server; on another thread than `serve`."""
        if isinstance(message, Cancel):
            self._cancelled = max(self._cancelled, message.number)
        else:
            assert isinstance(message, Upscale)
            self._orders.put(message)

    def serve(self, network: Network) -> Upscaled | NotUpscaled:
        """Wait for the next order and carry it out."""
        order = self._orders.get()

        def check() -> None:
            if order.number <= self._cancelled:
                raise _Cancelled

        try:
            return network.enlarge(order.picture, order.side, check)
        except _Cancelled:
            return NotUpscaled("it was cancelled")
        except Exception as error:  # of this picture alone: the next one may need less memory
            logger.exception("a picture was not enlarged")
            torch.cuda.empty_cache()
            return NotUpscaled(f"{type(error).__name__}: {first_line(error)}")
