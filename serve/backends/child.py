"""The process of one engine: load a model, run the engine's loop, end with the server."""

import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue

import torch

from model.checkpoints.config import read_config
from model.checkpoints.footprint import available_bytes, footprint
from model.checkpoints.hub import find_folder
from model.checkpoints.load import load
from model.device import check_quantization, choose_device, choose_dtype
from model.errors import CheckpointError, NoRoom
from model.quantization import Quantization
from serve.backends.loop import EngineLoop
from serve.backends.messages import Command, Died, Loaded, LoadModel, Report
from serve.backends.model_info import ModelInfo
from serve.child_process import listen
from serve.engine.engine import Engine
from serve.engine.memory import working_memory
from serve.logs import set_up_logging

_GIB = 2**30


def run(connection: "Connection[object, object]") -> None:
    """Everything the process does; see `serve.backends.messages` for what it receives and sends."""
    try:
        order = connection.recv()
    except (EOFError, OSError):
        return  # no model was wanted
    assert isinstance(order, LoadModel)
    set_up_logging(level=order.log_level, format=order.log_format)
    commands: SimpleQueue[Command] = SimpleQueue()
    listen(connection, commands.put)  # type: ignore[arg-type]
    try:
        engine = load_engine(order)
    except (ValueError, OSError) as error:
        connection.send(error)
        return
    except Exception as error:
        readable = RuntimeError(f"{type(error).__name__}: {error}")  # the server may not know the class, without torch
        readable.add_note(traceback.format_exc())
        connection.send(readable)
        return
    connection.send(describe(engine, quantization=order.quantization))
    messages: SimpleQueue[Report | Died | None] = SimpleQueue()
    sender = threading.Thread(target=_send, args=(connection, messages), name="reports", daemon=True)
    sender.start()
    EngineLoop(engine, commands, messages.put).run()
    messages.put(None)
    sender.join()


def _send(connection: "Connection[object, object]", messages: "SimpleQueue[Report | Died | None]") -> None:
    while True:
        message = messages.get()
        connection.send(message)
        if message is None:
            return


def load_engine(order: LoadModel) -> Engine:
    """A model and an engine for it.

    Raises:
        NoRoom: it needs more memory than there is.
        CheckpointError: it cannot be loaded, or has no tokenizer.
    """
    source = order.source
    device = choose_device(order.device)
    if order.quantization is not None:
        check_quantization(order.quantization, device)
    _check_room(order)
    rounds_on_gpu = device.type == "cuda" and order.quantization is not None
    dtype = "bfloat16" if rounds_on_gpu and order.dtype == "auto" else order.dtype
    janus = load(
        source.source,
        device="cpu" if rounds_on_gpu else order.device,
        dtype=dtype,  # type: ignore[arg-type]  # checked by load
        tokenizer=source.tokenizer,
        overlay=source.weights,
        revision=source.revision,
    )
    if janus.tokenizer is None:
        raise CheckpointError(f"{source.name} has no tokenizer; name one with --tokenizer")
    return Engine(
        replace(janus, name=source.name),
        slots=order.slots,
        quantization=order.quantization,
        jacobi=order.jacobi,
        release=True,
        device=device,
    )


def describe(engine: Engine, *, quantization: Quantization | None) -> Loaded:
    """The message that tells a backend about an engine and its model."""
    janus = engine.janus
    info = ModelInfo(
        janus.name, janus.image_size, janus.image_tokens, janus.codebook_size, janus.sampling, quantization
    )
    tokenizer = janus.tokenizer.backend_tokenizer if janus.tokenizer else None
    return Loaded(info, tokenizer, janus.max_prompt_tokens, engine.slots, engine.held_bytes)


def _check_room(order: LoadModel) -> None:
    """Refuse a model that would not fit beside those already loaded."""
    device = choose_device(order.device)
    config = read_config(find_folder(order.source.source, order.source.revision)[1])
    dtype = choose_dtype(order.dtype, device, torch.bfloat16)
    working = 0
    if device.type != "cuda":  # matrices are floats until they are packed
        needs = footprint(config, dtype, device, cache_dtype=torch.bfloat16 if order.quantization else None)
    else:
        needs = footprint(config, dtype, device, quantization=order.quantization)
        working = working_memory(config, dtype, device, quantization=order.quantization).total
    room = available_bytes(device)
    if order.room is not None:
        room = min(room, order.room)
    wanted = needs.total(order.slots) + working
    if wanted > room:
        raise NoRoom(
            f"{order.source.name} needs {wanted / _GIB:.2f} GiB ({needs.weights / _GIB:.2f} of weights and "
            f"{needs.per_image / _GIB:.3f} for each of {order.slots} images"
            f"{f', {working / _GIB:.2f} to work with' if working else ''}), and there are "
            f"{max(0, room) / _GIB:.2f} left: give fewer --slots or unload another model"
        )
