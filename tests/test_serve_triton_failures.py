"""Two Triton servers behind one front, under load, while parts of them are killed or stopped."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from model.checkpoints.load import load
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from serve.backends.triton.backend import TritonBackend
from serve.backends.triton.loader import TritonLoader
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings
from tests.conftest import Served
from tests.tools import needs_triton
from tests.triton_process import TritonProcess

pytestmark = [needs_triton, pytest.mark.long]
CLIENTS = 6
CLIENT_SECONDS = 120.0  # nobody may wait longer
PAUSE_SECONDS = 4.0  # so that servers that start have the cores
IMAGES = "/v1/images/generations"


@dataclass
class Load:
    """Clients that ask for pictures until they are told to stop; every seed is used once.

    In `wait_for` they ask without pause, else with a pause after each answer.

    pictures: by seed, as often as it was answered.
    refusals: reasons of the answers with status 503.
    """

    url: str
    pictures: dict[int, list[bytes]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._seeds = count(0, 2)
        self._stopping, self._hurrying = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number % 2 == 0,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._hurrying.set()
        for thread in self._threads:
            thread.join(CLIENT_SECONDS + 10)
            assert not thread.is_alive(), "a client hangs"

    def wait_for(self, more: int) -> None:
        """Wait until so many more seeds were answered."""
        wanted = len(self.pictures) + more
        self._hurrying.set()
        wait_until(lambda: len(self.pictures) >= wanted or bool(self.errors))
        self._hurrying.clear()

    def _work(self, stream: bool) -> None:
        with httpx.Client(base_url=self.url, timeout=CLIENT_SECONDS) as client:
            while not self._stopping.is_set():
                seed = next(self._seeds)
                try:
                    self._ask(client, {"prompt": "a blue star", "n": 2, "seed": seed, "stream": stream})
                except Exception as error:
                    self.errors.append(f"seed {seed}: {type(error).__name__}: {error}")
                    raise
                self._hurrying.wait(PAUSE_SECONDS)

    def _ask(self, client: httpx.Client, body: dict[str, object]) -> None:
        answer = client.post(IMAGES, json={**body, "partial_images": 2 if body["stream"] else 0})
        if answer.status_code == 503:
            self.refusals.append(answer.json()["error"]["message"])
            return
        assert answer.status_code == 200, answer.text
        if not body["stream"]:
            rows = answer.json()["data"]
        else:
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            if "error" in events[-1]:
                self.refusals.append(events[-1]["error"]["message"])
            rows = [event for event in events if event.get("type") == "image_generation.completed"]
            for index in range(2):
                shown = [event["rows"] for event in events if "rows" in event and event["image_index"] == index]
                assert shown == sorted(set(shown)), "a preview came twice, or late"
        for row in rows:
            pixels = Image.open(io.BytesIO(base64.b64decode(row["b64_json"]))).tobytes()
            self.pictures.setdefault(row["seed"], []).append(pixels)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Iterator[list[TritonProcess]]:
    servers = [
        TritonProcess(
            tmp_path_factory.mktemp("triton"), {"small": small_folder}, "--slots", "2", "--silence-seconds", "15"
        )
        for _ in range(2)
    ]
    for server in servers:
        server.wait_until_ready()
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def backend(servers: list[TritonProcess]) -> TritonBackend:
    for server in servers:
        if not server.runs:  # a test that failed has left it so
            server.start()
    urls = tuple(server.url for server in servers)
    settings = Settings(backend="triton", triton_url=urls, triton_silence_seconds=12)
    backend = TritonLoader(settings)(ModelSource(name="small", source="small"))
    wait_until(lambda: backend.stats.slots == 4)  # both servers are ready
    return backend


@pytest.fixture
def served(backend: TritonBackend, serve_on_socket: Callable[..., Served]) -> Iterator[Served]:
    with serve_on_socket(backend) as served:
        yield served


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def wait_until(condition: Callable[[], bool], *, seconds: float = 200) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Wait until the processes have ended."""
    wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes))


def named_memory(server: TritonProcess) -> list[Path]:
    """Shared memory that would remain if all its processes were killed now."""
    return list(Path("/dev/shm").glob(f"focusdiff-{server.supervisor.pid}-*"))


def assert_pictures_are_right(load: Load, janus: Janus) -> None:
    """Each answered seed came once, and its picture is that of the reference loop."""
    assert load.errors == []
    seeds = sorted(load.pictures)
    params = janus.sampling.as_dict()
    codes = generate(janus, ["a blue star"] * len(seeds), seeds=seeds, **params)  # type: ignore[arg-type]
    for seed, expected in zip(seeds, ImageTokenizer(janus).images(codes).numpy(), strict=True):
        assert load.pictures[seed] == [expected.tobytes()], f"seed {seed}"


@pytest.mark.parametrize(
    ("part", "end"),
    [("engine", "kill"), ("stub", "kill"), ("stub", "suspend"), ("triton", "kill"), ("supervisor", "kill")],
)
def test_a_killed_or_hung_part_costs_no_picture(
    part: str, end: str, served: Served, servers: list[TritonProcess], backend: TritonBackend, janus: Janus
) -> None:
    """Its jobs move to the other server; restarted, it is used again; no process or shared memory of it remains."""
    victim = servers[0]
    tree, engine = victim.tree, victim.engine
    assert named_memory(victim) == []
    with Load(served.url) as load:
        load.wait_for(10)
        getattr(getattr(victim, part), end)()
        load.wait_for(20)
        if part == "engine":
            wait_until_gone([engine])
        else:
            assert victim.wait() != 0
            wait_until_gone(tree)
            victim.start()
        wait_until(lambda: backend.stats.slots == 4)
        load.wait_for(10)
    assert victim.engine.pid != engine.pid
    assert load.refusals == []
    assert_pictures_are_right(load, janus)


def test_a_server_that_stops_answering_is_given_up_until_it_answers(
    served: Served, servers: list[TritonProcess], backend: TritonBackend, janus: Janus
) -> None:
    tree = servers[1].tree
    with Load(served.url) as load:
        load.wait_for(10)
        for process in tree:
            process.suspend()
        wait_until(lambda: backend.stats.slots == 2)
        load.wait_for(20)
        for process in reversed(tree):  # Triton would find that a model which still sleeps is not healthy
            process.resume()
        wait_until(lambda: backend.stats.slots == 4)
        load.wait_for(10)
    assert load.refusals == []
    assert_pictures_are_right(load, janus)


def test_a_server_that_is_told_to_stop_finishes_what_it_draws(
    served: Served, servers: list[TritonProcess], backend: TritonBackend, janus: Janus
) -> None:
    with Load(served.url) as load:
        load.wait_for(10)
        assert servers[0].close() == 0, servers[0].log
        load.wait_for(10)
        servers[0].start()
        wait_until(lambda: backend.stats.slots == 4)
    assert load.refusals == []
    assert_pictures_are_right(load, janus)


def test_without_servers_the_front_says_so_and_recovers(
    served: Served, servers: list[TritonProcess], backend: TritonBackend, janus: Janus
) -> None:
    """Requests under way are finished when a server is back in time; new ones get 503 with the reason meanwhile."""
    with Load(served.url) as load:
        load.wait_for(10)
        for server in servers:
            server.supervisor.kill()
            server.wait()
        wait_until(lambda: httpx.get(f"{served.url}/health/ready").status_code == 503)
        assert httpx.get(f"{served.url}/health/ready").json()["status"] == "unreachable"
        refusal = served.post(IMAGES, {"prompt": "a blue star"})
        assert refusal.status_code == 503
        assert servers[0].url in refusal.json()["error"]["message"]
        for server in servers:
            server.start()
        wait_until(lambda: backend.stats.slots == 4)
        assert httpx.get(f"{served.url}/health/ready").status_code == 200
        load.wait_for(10)
    assert_pictures_are_right(load, janus)


def test_clients_that_leave_free_the_servers_slots(
    served: Served, servers: list[TritonProcess], backend: TritonBackend
) -> None:
    """Two hundred clients leave before, during and after the drawing of their pictures; Triton survives."""
    before = [server.triton.pid for server in servers]

    def leave(number: int) -> None:
        body = {"prompt": "a blue star", "n": 2, "seed": number, "stream": True, "partial_images": 3}
        with httpx.stream("POST", f"{served.url}{IMAGES}", json=body, timeout=60) as answer:
            for _ in zip(range(number % 9), answer.iter_lines()):  # noqa: B905  # stops at either's end
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(200)))
    wait_until(lambda: (backend.stats.running, backend.stats.waiting) == (0, 0))
    wait_until(lambda: all(server.pulse.running + server.pulse.waiting == 0 for server in backend.servers))
    assert [server.triton.pid for server in servers] == before
    assert served.post(IMAGES, {"prompt": "a blue star"}).status_code == 200
