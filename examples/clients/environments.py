"""Environments of the clients in `run/clients`, made again when their requirements change."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / "run/clients"
INSTALL_SECONDS = 3600


class NotInstalled(Exception):
    """Why the packages of a client could not be installed."""


def install(environment: str) -> Path:
    """Make an environment unless it is there, and return the folder of its programs."""
    folder, requirements = FOLDER / environment, _requirements(environment)
    folder.mkdir(parents=True, exist_ok=True)
    if environment == "node":
        for path in (requirements, *HERE.glob("*.mjs")):  # Node's programs find packages beside themselves
            shutil.copy(path, folder)
        programs = folder / "node_modules/.bin"
        commands = [["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]]
    else:
        programs = folder / "bin"
        pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir", "-r", str(requirements)]
        commands = [[sys.executable, "-m", "venv", "--clear", str(folder)], pip]
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        for command in commands:
            _call(command)
        stamp.write_text(requirements.read_text())
    return programs


def command(programs: Path, program: str) -> list[str]:
    """The command line of an example, given the folder of its environment's programs."""
    if program.endswith(".mjs"):
        return [str(programs / "node"), str(programs.parent.parent / program)]
    return [str(programs / "python"), str(HERE / program)]


def version(environment: str, package: str) -> str:
    """The pinned version of a package."""
    found = re.search(rf'^\W*{re.escape(package)}(?:==|": ")([\w.]+)', _requirements(environment).read_text(), re.M)
    assert found, package
    return found[1]


def _requirements(environment: str) -> Path:
    return HERE / ("package.json" if environment == "node" else f"requirements/{environment}.txt")


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except OSError as error:
        raise NotInstalled(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"it took more than {INSTALL_SECONDS} s") from None
    if done.returncode:
        raise NotInstalled((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
