"""Prove one thing after the other about the image, then print a table of sizes and seconds."""

import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.proof.engine import Engine, missing
from deploy.proof.image import base_name, build, import_base
from deploy.proof.report import check, stop, timed, wait_until
from deploy.proof.server import answers, client, draw, draw_outside, free_port, pictures, read

IMAGE, TRITON_IMAGE = "focusdiff:proof", "focusdiff-triton:proof"
SECONDS = 40 * 60  # for everything
DRAIN_SECONDS = 300
# run in the container: a network that doubles a picture's sides, saved and loaded as --upscaler does
_UPSCALER = """
from pathlib import Path
import torch
from serve.upscaling.network import load_network
file = Path("/data/double.pth")
weights = {"body.0": (8, 3, 3, 3), "body.1": (8,), "body.2": (12, 8, 3, 3)}
biases = {"body.0.bias": torch.zeros(8), "body.2.bias": torch.zeros(12)}
torch.save({f"{name}.weight": torch.zeros(shape) for name, shape in weights.items()} | biases, file)
print(load_network(file, "cpu").architecture)
"""
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")


def main() -> None:
    """Build, run alone, run by compose."""
    if reason := missing():
        sys.exit(f"cannot run: {reason}")
    signal.signal(signal.SIGALRM, lambda *_: stop(f"takes longer than {SECONDS} seconds"))
    signal.signal(signal.SIGTERM, lambda *_: stop("was told to stop"))
    signal.alarm(SECONDS)
    table: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="focusdiff-proof-") as name, Engine(Path(name) / "docker") as engine:
        folder = Path(name)
        print(f"NOT the real {base_name()}: a stand-in made from Debian's packages", flush=True)
        table["stand-in made, s"] = f"{timed(lambda: import_base(engine, folder)):.0f}"
        table["image built without cache, s"] = f"{timed(lambda: build(engine, IMAGE)):.0f}"
        history = engine.docker("history", "--no-trunc", IMAGE)
        check("PIP_" not in history, "the image does not tell where its packages came from")
        table["stand-in, MB"] = f"{engine.megabytes(base_name()):.0f}"
        table["image, MB"] = f"{engine.megabytes(IMAGE):.0f}"
        table["Triton image built after it, s"] = f"{timed(lambda: build(engine, TRITON_IMAGE, target='triton')):.0f}"
        table["Triton image, MB"] = f"{engine.megabytes(TRITON_IMAGE):.0f}"
        expected = draw_outside(folder)
        table |= run_alone(engine, expected)
        table |= run_composed(engine, "server", port="FOCUSDIFF_PORT", expected=expected)
        table |= run_composed(engine, "front", "triton", port="FOCUSDIFF_FRONT_PORT", expected=expected)
        print("\n".join(f"{what:36}{number:>8}" for what, number in table.items()), flush=True)


def run_alone(engine: Engine, expected: bytes) -> dict[str, str]:
    """`docker run` with the tightest settings: healthy, the page, a picture, a stop amid requests."""
    table = {}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    # the machine may be slow: what is drawn when it is stopped must not be cut off
    network = ("--network=host", f"--env=FOCUSDIFF_PORT={port}", f"--env=FOCUSDIFF_DRAIN_SECONDS={DRAIN_SECONDS}")
    engine.docker("run", "--detach", "--name=server", *network, *HARDENED, IMAGE)
    wait_until(lambda: answers(f"{url}/health/ready"), "the server is ready")
    drawn = draw(url)
    table["docker run to first picture, s"] = f"{time.monotonic() - started:.1f}"
    wait_until(lambda: engine.state("server", "Health.Status") == "healthy", "the container is healthy")
    table["docker run to healthy, s"] = f"{time.monotonic() - started:.1f}"
    check(b"FocusDiff" in read(url), "the page is served")
    check(drawn == expected, "the picture's pixels equal those drawn outside of the container")
    users = engine.docker("top", "server", "-o", "uid,pid").split()[2::2]
    check(set(users) == {"10001"}, f"all {len(users)} processes run as user 10001")
    loaded = engine.docker(
        "exec", "server", "python3", "-c", "from model.cpu.library import *; print(native_library())"
    )
    check("/model/cpu/built/" in loaded, f"the C functions were built ahead: {loaded.split(chr(39))[1]}")
    loaded = engine.docker("exec", "server", "python3", "-c", _UPSCALER)
    check(loaded == "RealESRGAN Compact", f"a network of --upscaler loads: {loaded}")
    tools = engine.docker("exec", "server", "sh", "-c", "command -v cc gcc ld make pip pip3 curl || true")
    check(not tools, "the image has no build tools")
    table["SIGTERM to the end, s"] = f"{stop_amid_requests(engine, url):.1f}"
    return table


def stop_amid_requests(engine: Engine, url: str) -> float:
    """Stop the server while ten requests wait for ten pictures each; seconds until it has ended."""
    one_client = client(url)
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(pictures, one_client, count=10, seed=seed) for seed in range(10)]
        wait_until(lambda: b"focusdiff_open_requests 10.0" in read(f"{url}/metrics"), "ten requests are open")
        states = engine.docker("top", "server", "-o", "stat,pid").split()[2::2]
        check(not any(state.startswith("Z") for state in states), "no process was left unreaped")
        seconds = timed(lambda: engine.docker("stop", f"--time={DRAIN_SECONDS}", "server", seconds=DRAIN_SECONDS + 60))
        check([len(one.result()) for one in asked] == [10] * 10, "all 100 pictures were answered after SIGTERM")
    check(engine.state("server", "ExitCode") == "0", "exit code 0")
    engine.docker("rm", "--volumes", "server")
    return seconds


def run_composed(engine: Engine, *services: str, port: str, expected: bytes) -> dict[str, str]:
    """Services of compose.yaml; the first is asked for a picture, at the port that Docker publishes.

    Args:
        services: those to bring up.
        port: variable that has the first service's port.
        expected: pixels of the picture.
    """
    number = free_port()
    url = f"http://127.0.0.1:{number}"
    settings = {"FOCUSDIFF_IMAGE": IMAGE, "FOCUSDIFF_TRITON_IMAGE": TRITON_IMAGE, port: str(number)}
    names = " and ".join(services)
    started = time.monotonic()
    try:
        engine.compose("up", "--detach", "--no-build", *services, environment=settings)
        wait_until(lambda: answers(f"{url}/health/ready"), f"compose: {names}: ready")
        check(draw(url) == expected, f"compose: {names}: the picture's pixels are the same")
        seconds = time.monotonic() - started
    finally:
        engine.compose("--profile", "triton", "down", "--volumes", environment=settings, seconds=DRAIN_SECONDS)
    return {f"compose up {names} to picture, s": f"{seconds:.1f}"}


if __name__ == "__main__":
    main()
