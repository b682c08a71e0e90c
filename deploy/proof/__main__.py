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

IMAGE = "focusdiff:proof"
SECONDS = 40 * 60  # for everything
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
        table |= run_alone(engine, folder)
        table |= run_composed(engine)
        print("\n".join(f"{what:36}{number:>8}" for what, number in table.items()), flush=True)


def run_alone(engine: Engine, folder: Path) -> dict[str, str]:
    """`docker run` with the tightest settings: healthy, the page, a picture, a stop amid requests."""
    table = {}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    network = ("--network=host", f"--env=FOCUSDIFF_PORT={port}")
    engine.docker("run", "--detach", "--name=server", *network, *HARDENED, IMAGE)
    wait_until(lambda: answers(f"{url}/health/ready"), "the server is ready")
    drawn = draw(url)
    table["docker run to first picture, s"] = f"{time.monotonic() - started:.1f}"
    wait_until(lambda: engine.state("server", "Health.Status") == "healthy", "the container is healthy")
    table["docker run to healthy, s"] = f"{time.monotonic() - started:.1f}"
    check(b"FocusDiff" in read(url), "the page is served")
    check(drawn == draw_outside(folder), "the picture's pixels equal those drawn outside of the container")
    users = engine.docker("top", "server", "-o", "uid,pid").split()[2::2]
    check(set(users) == {"10001"}, f"all {len(users)} processes run as user 10001")
    loaded = engine.docker(
        "exec", "server", "python3", "-c", "from model.cpu.library import *; print(native_library())"
    )
    check("/model/cpu/built/" in loaded, f"the C functions were built ahead: {loaded.split(chr(39))[1]}")
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
        seconds = timed(lambda: engine.docker("stop", "--time=75", "server"))
        check([len(one.result()) for one in asked] == [10] * 10, "all 100 pictures were answered after SIGTERM")
    check(engine.state("server", "ExitCode") == "0", "exit code 0")
    engine.docker("rm", "--volumes", "server")
    return seconds


def run_composed(engine: Engine) -> dict[str, str]:
    """compose.yaml's server, with its port published by Docker."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"FOCUSDIFF_IMAGE": IMAGE, "FOCUSDIFF_PORT": str(port)}
    started = time.monotonic()
    engine.compose("up", "--detach", "--no-build", "server", environment=settings)
    try:
        wait_until(lambda: answers(f"{url}/health/ready"), "compose: the server is ready")
        draw(url)
    finally:
        engine.compose("down", "--volumes", environment=settings)
    return {"compose up to first picture, s": f"{time.monotonic() - started:.1f}"}


if __name__ == "__main__":
    main()
