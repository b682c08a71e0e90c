"""Build hook of wheels: compiles the C functions for every level of processor and adds them to the wheel.

Such a wheel suits one architecture, and its tag says so. Without a C compiler the wheel has none of them and suits
every machine; an editable install has none either, so that a change of the C sources takes effect at once.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Adds model/cpu/built to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the libraries and set the wheel's tag."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)  # what it imports is Python's standard library and our own
        from model.cpu.build import build, find_compiler
        from model.cpu.compilation import architecture_of

        compiler = find_compiler()
        if compiler is None:
            self.app.display_warning("no C compiler: the wheel has no C functions, and pictures take longer")
            return
        self._folder = tempfile.mkdtemp()
        for file in build(compiler, Path(self._folder)):
            build_data["force_include"][str(file)] = f"model/cpu/built/{file.name}"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{architecture_of(compiler)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the libraries, which the wheel has now."""
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)
