"""Triton's server as a command: from NVIDIA's container, or from the package nvidia-pytriton."""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from serve.settings.reading import ConfigError

_PACKAGE = Path(sys.prefix) / "triton"  # apart from other packages: it asks for old versions of some, and uses none


@dataclass(frozen=True)
class Installation:
    """A Triton server.

    program: `tritonserver`.
    backend, stub: folder of the Python backend, and its program for this version of Python, if they are not where the
        server looks for them.
    libraries: folders of shared libraries that it needs.
    """

    program: Path
    backend: Path | None = None
    stub: Path | None = None
    libraries: tuple[Path, ...] = ()

    @classmethod
    def find(cls) -> "Installation":
        """Find `tritonserver` on PATH, or in the package nvidia-pytriton in this environment's folder `triton`.

        Raises:
            ConfigError: there is none, or none for this version of Python.
        """
        program = shutil.which("tritonserver")
        if program is not None:
            return cls(Path(program))
        root = _PACKAGE / "pytriton" / "tritonserver"
        if not root.exists():
            raise ConfigError(
                "no tritonserver here: run this in NVIDIA's container, or, on Linux with x86-64, "
                f"pip install --no-deps --target {_PACKAGE} nvidia-pytriton==0.7.0"
            )
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.exists():
            raise ConfigError(f"nvidia-pytriton has no stub for Python {version}")
        libraries = (Path(sysconfig.get_config_var("LIBDIR")), _PACKAGE / "nvidia_pytriton.libs")
        return cls(root / "bin" / "tritonserver", root / "backends" / "python", stub, libraries)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the server: its stubs use this interpreter and its packages."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        code = str(Path(__file__).parents[2])
        python = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
        libraries = os.pathsep.join(filter(None, [*map(str, self.libraries), os.environ.get("LD_LIBRARY_PATH")]))
        return {**os.environ, "PATH": path, "PYTHONPATH": python, "LD_LIBRARY_PATH": libraries}

    def command(
        self,
        repository: Path,
        *,
        host: str,
        grpc_port: int,
        http_port: int,
        metrics_port: int,
        drain_seconds: float,
        shared: str,
        quiet: bool,
    ) -> list[str]:
        """Command line that serves a repository.

        Args:
            repository: of `serve.triton.repository`.
            host, grpc_port, http_port, metrics_port: where it listens.
            drain_seconds: for the drawing of accepted requests, once it is told to stop.
            shared: first part of the names of its shared memory.
            quiet: whether it prints warnings and errors only.

        Raises:
            OSError: the folder of backends cannot be written.
        """
        options = {
            "model-repository": repository,
            "grpc-address": host,
            "grpc-port": grpc_port,
            "http-address": host,
            "http-port": http_port,
            "metrics-address": host,
            "metrics-port": metrics_port,
            "exit-timeout-secs": int(drain_seconds),
            "log-info": str(not quiet).lower(),
            "backend-config": f"python,shm-region-prefix-name={shared}",
        }
        if self.backend is not None:
            options["backend-directory"] = self._backends(repository.parent / f".{repository.name}.backends")
        return [
            str(self.program),
            "--disable-auto-complete-config",
            *(f"--{name}={value}" for name, value in options.items()),
        ]

    def _backends(self, folder: Path) -> Path:
        """A folder of backends as the server wants it, made of links."""
        assert self.backend is not None
        assert self.stub is not None
        links = folder / "python"
        links.mkdir(parents=True, exist_ok=True)
        for file in (*self.backend.iterdir(), self.stub):
            link = links / f".{file.name}.{os.getpid()}"
            link.symlink_to(file)
            link.replace(links / file.name)  # another server may start from the same folder
        return folder
