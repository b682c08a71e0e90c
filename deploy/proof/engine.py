"""A Docker engine that ends with the script: its data, socket and configuration lie in one folder."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.proof.report import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
# Nothing of the machine's network is touched: containers use the host's, or ports that Docker's proxy publishes.
_NETWORK = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")


def missing() -> str | None:
    """Why no engine can be started here, if so."""
    if os.geteuid() != 0:
        return "a Docker engine needs root"
    programs = {"dockerd": "docker.io", "docker-compose": "docker-compose", "mmdebstrap": "mmdebstrap"}
    absent = [package for program, package in programs.items() if shutil.which(program) is None]
    return f"missing programs (Debian: apt-get install {' '.join(absent)})" if absent else None


class Engine:
    """Runs a Docker engine while the `with` block runs, and removes what it made.

    Args:
        folder: a folder of its own, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        # Debian's client has BuildKit built in, others need a plugin
        self._docker = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
        self._environment = {
            "DOCKER_HOST": f"unix://{folder / 'socket'}",
            "DOCKER_CONFIG": str(folder / "config"),
            "DOCKER_BUILDKIT": "1",
        }

    def __enter__(self) -> Self:
        at = self._folder
        places = ("--data-root", at / "data", "--exec-root", at / "exec", "--pidfile", at / "pid")
        with open(at / "log", "wb") as log:
            command = ["dockerd", *map(str, places), "--host", self._environment["DOCKER_HOST"], *_NETWORK]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, "a Docker engine runs", seconds=60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._process is not None
        if error is not None and self._process.poll() is not None:
            print((self._folder / "log").read_text()[-2000:])
        elif containers := self.docker("ps", "--all", "--quiet").split():
            if error is not None:
                print(self._run([self._docker, "logs", containers[0]], merged=True)[-2000:])
            self.docker("rm", "--force", "--volumes", *containers)
        self._process.terminate()
        self._process.wait(60)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed(mounts):  # the engine leaves the host's network namespace mounted
            if Path(mount).is_relative_to(self._folder):
                subprocess.run(["umount", mount], check=True)

    def docker(self, *arguments: str, seconds: float = 120) -> str:
        """Run a command of the client; returns its standard output, without space at the ends."""
        return self._run([self._docker, *arguments], seconds=seconds)

    def compose(self, *arguments: str, environment: Mapping[str, str], seconds: float = 120) -> None:
        """Run docker-compose on compose.yaml."""
        command = ["docker-compose", "--project-name", "proof", "--file", str(ROOT / "compose.yaml"), *arguments]
        self._run(command, environment=environment, seconds=seconds)

    def state(self, container: str, field: str) -> str:
        """A field of a container's state: ExitCode, Health.Status, …"""
        return self.docker("inspect", "--format", f"{{{{.State.{field}}}}}", container)

    def megabytes(self, image: str) -> float:
        """Size of an image in MB."""
        return int(self.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6

    def _answers(self) -> bool:
        info = [self._docker, "info"]
        return subprocess.run(info, env=os.environ | self._environment, capture_output=True).returncode == 0

    def _run(
        self,
        command: list[str],
        *,
        seconds: float = 120,
        environment: Mapping[str, str] = {},
        merged: bool = False,
    ) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else None,
            text=True,
            timeout=seconds,
            check=True,
        )
        return done.stdout.strip()
