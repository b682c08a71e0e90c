"""Checkpoints from a hub: a real download from a server on this machine that speaks the hub's protocol."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import disable_progress_bars

from model.checkpoints.convert import main
from model.checkpoints.load import load
from tests.ended import Ended
from tests.forked_command import ForkedCommand

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/small-janus"


@pytest.fixture
def hub(small_folder: Path) -> Iterator[str]:
    """Hub on this machine with `small_folder` as its only repository; yields its address."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            resolved = f"/{REPOSITORY}/resolve/{COMMIT}/"
            if path in (f"/api/models/{REPOSITORY}/revision/{revision}" for revision in ("main", "v1", COMMIT)):
                files = [{"rfilename": file.name} for file in sorted(small_folder.iterdir())]
                content = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": files, "tags": []}
                self.send(json.dumps(content).encode(), "application/json", body)
            elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
                tree = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                    for file in sorted(small_folder.iterdir())
                ]
                self.send(json.dumps(tree).encode(), "application/json", body)
            elif path.startswith(resolved) and (small_folder / path.removeprefix(resolved)).is_file():
                self.send((small_folder / path.removeprefix(resolved)).read_bytes(), "application/octet-stream", body)
            else:
                self.send_response(404)
                known = path.startswith(f"/api/models/{REPOSITORY}/")
                self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def send(self, content: bytes, kind: str, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def use_hub(hub: str, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Use `hub` as the hub and `home` as its cache, in this process."""
    patch.setattr("huggingface_hub.constants.ENDPOINT", hub)
    template = f"{hub}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))


def convert_from(hub: str, home: Path) -> None:
    """`focusdiff-convert` without progress bars, with a hub and its cache."""
    disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        use_hub(hub, home, patch)
        main()


@pytest.mark.long
def test_a_downloaded_revision_loads_offline(
    hub: str, tmp_path: Path, small_folder: Path, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(hub, tmp_path / "home" / "hub", monkeypatch)
    first = command(main, tmp_path / "one", "--model", REPOSITORY, "--revision", "v1")
    assert first.code == 0, first.err
    ours, theirs = load(tmp_path / "one", device="cpu"), load(small_folder, device="cpu")
    for (name, tensor), other in zip(
        ours.network.state_dict().items(), theirs.network.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name
    nowhere = "http://127.0.0.1:9"
    code = f"from model.checkpoints.load import load; print(load({REPOSITORY!r}, revision='v1').name)"
    name = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_ENDPOINT": nowhere, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert name.stdout.strip() == REPOSITORY  # the repository, not the cached folder of the commit


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "someone/else"), "someone/else: no such repository"),
        (("--model", REPOSITORY, "--revision", "v9"), f"{REPOSITORY}: no revision 'v9'"),
    ],
)
def test_an_unknown_repository_or_revision_is_one_line(
    hub: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Ended],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    use_hub(hub, tmp_path / "home", monkeypatch)
    ended = command(main, tmp_path / "out", *arguments)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert said in ended.err
    assert not (tmp_path / "out").exists()


def test_a_configuration_is_found_without_downloading_weights(hub: str, tmp_path: Path) -> None:
    """`--plan` needs config.json only, and must not download gigabytes for it."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from model.checkpoints.hub import find_folder; print(find_folder({REPOSITORY!r}, None, weights=False)[1])",
        ],
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    names = [path.name for path in Path(found.stdout.strip()).iterdir()]
    assert "config.json" in names
    assert all(name.endswith(".json") for name in names)


@pytest.mark.long
def test_a_full_disk_is_one_line_and_the_next_download_succeeds(
    hub: str, tmp_path: Path, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file size limit simulates a full disk: the write fails in the middle of a file."""
    arguments = (tmp_path / "out", "--model", REPOSITORY)
    convert = partial(convert_from, hub, tmp_path / "home")
    full = ForkedCommand(convert, *arguments, log=tmp_path / "log", file_bytes=20_000)
    assert full.wait() == 2, full.printed
    (line,) = full.printed.splitlines()
    assert REPOSITORY in line
    assert not (tmp_path / "out").exists()
    use_hub(hub, tmp_path / "home", monkeypatch)
    roomy = command(main, *arguments)
    assert roomy.code == 0, roomy.err
