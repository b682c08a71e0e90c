"""The class that Triton's Python backend calls. Only this module knows Triton's interface; it runs in Triton's process.

Tensors cross by DLPack: the backend's own conversion needs numpy 1.
"""

import asyncio
import ctypes
import json
import logging
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray
from PIL import Image

from serve.logs import set_up_logging
from serve.settings.engine import EngineSettings
from serve.triton.answers import Answers
from serve.triton.engine_keeper import EngineKeeper
from serve.triton.server_process import end_with_server

logger = logging.getLogger("focusdiff")


class TritonPythonModel:
    """One model, drawn by an engine in a process of its own; requests are answered on a thread of their own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; Triton reports the message of an error."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = EngineSettings.model_validate_json(parameters["settings"]["string_value"])
        set_up_logging(level=settings.log_level, format=settings.log_format)
        end_with_server()
        self._keeper = EngineKeeper(settings)
        self._answers = Answers(self._keeper)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._cancelling = self._loop.create_task(self._answers.cancel_abandoned())
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Accept requests and return at once."""
        for request in requests:
            self._loop.call_soon_threadsafe(self._accept, request)

    def finalize(self) -> None:
        """End the engine; Triton calls this when all requests are answered."""
        self._keeper.close()
        self._loop.call_soon_threadsafe(self._cancelling.cancel)
        self._thread.join()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._cancelling)

    def _accept(self, request: Any) -> None:
        task = self._loop.create_task(self._answer(request))
        self._tasks.add(task)  # the loop itself keeps no tasks alive
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Any) -> None:
        sender = TritonSender(request)
        try:
            await self._answers.answer(content_of(request), sender)
        except Exception as error:  # the client would wait for ever
            logger.exception("a request was not answered")
            if not sender.ended:
                sender.refuse(f"{type(error).__name__}: {error}")


def content_of(request: Any) -> bytes:
    """The tensor `request` of a request."""
    return np.from_dlpack(triton.get_input_tensor_by_name(request, "request")).tobytes()


class TritonSender:
    """Sends the answers to one of Triton's requests (`serve.triton.answers.Sender`).

    Used on one thread: after the final answer Triton has freed the request, and asking whether it was cancelled would
    end Triton's process.
    """

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self.ended = False

    def send(self, event: bytes, *, picture: Image.Image | None = None, file: bytes | None = None, last: bool) -> None:
        tensors = [_tensor("event", np.frombuffer(event, np.uint8))]
        if picture is not None:
            tensors.append(_tensor("picture", np.asarray(picture)))
        if file is not None:
            tensors.append(_tensor("file", np.frombuffer(file, np.uint8)))
        self._send(triton.InferenceResponse(tensors), last=last)

    def refuse(self, message: str) -> None:
        self._send(triton.InferenceResponse(error=triton.TritonError(message)), last=True)

    def end(self) -> None:
        self.ended = True
        self._sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return not self.ended and bool(self._sender.is_cancelled())

    def _send(self, response: Any, *, last: bool) -> None:
        self.ended = last
        self._sender.send(response, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)


def _tensor(name: str, values: NDArray[np.uint8]) -> Any:
    return triton.Tensor.from_dlpack(name, _Lent(values))


class _Lent:
    """An array for DLPack's consumers."""

    def __init__(self, values: NDArray[np.uint8]) -> None:
        self._values = values if values.flags.writeable else values.copy()  # read-only memory cannot be lent

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()

    def __dlpack__(self, **_: object) -> Any:
        capsule = self._values.__dlpack__()
        # Triton takes the memory over, but marks the capsule as used by a name of its own, which numpy's destructor
        # takes for a fault
        _forget_destructor(capsule, None)
        return capsule


_forget_destructor = ctypes.pythonapi.PyCapsule_SetDestructor
_forget_destructor.argtypes = [ctypes.py_object, ctypes.c_void_p]
