"""`python -m model.cpu.build FOLDER`: build the C functions ahead, for every level of the compiler's architecture.

`CC` names the compiler (default: cc); a cross compiler builds the libraries of its own architecture. Wheels contain
them in model/cpu/built (`hatch_build.py`). Needs nothing but Python and a C compiler.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from model.cpu.compilation import architecture_of, compile_library
from model.cpu.levels import LEVELS


def find_compiler() -> str | None:
    """Path of the C compiler, if there is one."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(compiler: str, folder: Path) -> list[Path]:
    """Build a library for each level of the compiler's architecture into `folder`; none for an unknown one.

    Raises:
        subprocess.SubprocessError: the compiler failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    architecture = architecture_of(compiler)
    files = []
    for level in LEVELS:
        if level.architecture == architecture:
            files.append(folder / f"{level.name}.so")
            compile_library(compiler, files[-1], options=level.options)
    return files


def main() -> None:
    """Entry point of `python -m`."""
    parser = argparse.ArgumentParser(prog="python -m model.cpu.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder for the libraries")
    folder = parser.parse_args().folder
    compiler = find_compiler()
    if compiler is None:
        sys.exit("no C compiler (Debian: apt-get install gcc libc6-dev)")
    for file in build(compiler, folder):
        print(file)


if __name__ == "__main__":
    main()
