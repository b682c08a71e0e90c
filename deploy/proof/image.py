"""The image, built from the Dockerfile as it is, on a stand-in for its base.

A registry is not always within reach, so the base is made from Debian's packages. Python's come from where pip's
variables say: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_CERT are passed on to the build.
"""

import http.server
import os
import re
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.proof.engine import ROOT, Engine

_CERTIFICATES = "/usr/local/share/certificates.pem"  # a copy of PIP_CERT's file in the stand-in
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")  # as in slim images


def base_name() -> str:
    """The base image that the Dockerfile names."""
    found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert found, "the Dockerfile names no base"
    return found[1]


def import_base(engine: Engine, folder: Path) -> None:
    """Make a minimal Debian and give it the base's name."""
    options = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    if "PIP_CERT" in os.environ:
        options.append(f"--customize-hook=upload {os.environ['PIP_CERT']} {_CERTIFICATES}")
    release = base_name().partition(":")[2].removesuffix("-slim")
    tar = folder / "base.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", *options, release, str(tar)]
    subprocess.run(command, check=True, timeout=600)
    engine.docker("import", str(tar), base_name())


def build(engine: Engine, name: str, *, target: str | None = None) -> None:
    """Build the image, or another target of the Dockerfile."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    revision = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    given = {"VERSION": project["version"], "REVISION": revision}
    given |= {key: os.environ[key] for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if key in os.environ}
    if "PIP_CERT" in os.environ:
        given["PIP_CERT"] = _CERTIFICATES
    with _as_url(os.environ.get("PIP_FIND_LINKS")) as links:
        if links:
            given["PIP_FIND_LINKS"] = links
        arguments = [f"--build-arg={key}={value}" for key, value in given.items()]
        if target:
            arguments.append(f"--target={target}")
        engine.docker("build", "--quiet", "--network=host", *arguments, f"--tag={name}", str(ROOT), seconds=1500)


@contextmanager
def _as_url(links: str | None) -> Iterator[str | None]:
    """A folder of wheels served on loopback, which a build can reach; anything else as it is."""
    if not links or not Path(links).is_dir():
        yield links
        return

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=links)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
