"""The process of one engine: loads a model, runs the engine's loop, and ends with whoever started it."""

import os
import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue

from model.checkpoint import choose_device, load
from model.errors import CheckpointError, NoRoom
from model.footprint import available_bytes, measure
from model.janus import Janus
from serve.context import set_up_logging
from serve.engine import Engine
from serve.engine_loop import EngineLoop
from serve.local_backend import describe, make_engine
from serve.messages import Command, Died, Report
from serve.process_backend import Order

_GIB = 2**30


def run(connection: "Connection[object, object]") -> None:
    """All of it: hears its order, says what was loaded, or why not, then reports (see `serve.messages`)."""
    try:
        order = connection.recv()
    except (EOFError, OSError):
        return  # nothing was wanted
    assert isinstance(order, Order)
    set_up_logging(level=order.log_level, format=order.log_format)
    commands: SimpleQueue[Command] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, commands), name="commands", daemon=True).start()
    try:
        janus, engine = load_engine(order)
    except (ValueError, OSError) as error:
        connection.send(error)
        return
    except Exception as error:
        told = RuntimeError(f"{type(error).__name__}: {error}")  # which the other side knows without torch
        told.add_note(traceback.format_exc())
        connection.send(told)
        return
    connection.send(describe(janus, engine, images=order.slots, int8=order.int8))
    messages: SimpleQueue[Report | Died | None] = SimpleQueue()
    sender = threading.Thread(target=_send, args=(connection, messages), name="reports", daemon=True)
    sender.start()
    EngineLoop(engine, commands, messages.put).run()
    messages.put(None)
    sender.join()


def _listen(connection: "Connection[object, object]", commands: "SimpleQueue[Command]") -> None:
    while True:
        try:
            commands.put(connection.recv())  # type: ignore[arg-type]
        except (EOFError, OSError):
            os._exit(0)  # whoever wanted pictures is gone


def _send(connection: "Connection[object, object]", messages: "SimpleQueue[Report | Died | None]") -> None:
    while True:
        message = messages.get()
        connection.send(message)
        if message is None:
            return


def load_engine(order: Order) -> tuple[Janus, Engine]:
    """A model and an engine for it.

    Raises:
        NoRoom: it needs more memory than there is.
        CheckpointError: it cannot be loaded, or has no tokenizer.
    """
    source = order.source
    _check_room(order)
    janus = load(
        source.source,
        device=order.device,
        dtype=order.dtype,  # type: ignore[arg-type]  # checked by load
        tokenizer=source.tokenizer,
        overlay=source.weights,
        revision=source.revision,
    )
    if janus.tokenizer is None:
        raise CheckpointError(f"{source.name} has no tokenizer; name one with --tokenizer")
    janus = replace(janus, name=source.name)
    return janus, make_engine(janus, images=order.slots, int8=order.int8)


def _check_room(order: Order) -> None:
    """Refuse a model that would not fit beside those that are there."""
    device = choose_device(order.device)
    needs = measure(order.source.source, dtype=order.dtype, device=device, revision=order.source.revision)
    if order.int8:  # while they are made the floats are still there
        needs = replace(needs, weights=needs.weights * 5 // 4)
    room = available_bytes(device)
    if order.room is not None:
        room = min(room, order.room)
    wanted = needs.total(order.slots)
    if wanted > room:
        raise NoRoom(
            f"{order.source.name} needs {wanted / _GIB:.2f} GiB ({needs.weights / _GIB:.2f} of weights and "
            f"{needs.per_image / _GIB:.3f} for each of {order.slots} images), and there are "
            f"{max(0, room) / _GIB:.2f} left: give fewer --slots or unload another model"
        )
