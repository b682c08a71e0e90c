"""Imports between packages and subpackages, read from the source, and where package names resolve."""

import ast
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# our packages that each package or module may import besides itself; the longest matching name applies
ALLOWED = {
    "pairs": set(),
    "model": {"pairs"},
    "train": {"model", "pairs", "serve.engine"},
    "serve.settings": {"pairs", "model.quantization"},
    "serve.logs": set(),
    "serve.child_process": set(),
    "serve.engine": {"model", "pairs"},
    "serve.backends": {"model", "pairs", "serve.engine", "serve.settings", "serve.logs", "serve.child_process"},
    "serve.upscaling": {"model", "serve.logs", "serve.child_process"},
    "serve.http": {
        "model",
        "pairs",
        "serve.backends",
        "serve.upscaling",
        "serve.engine",
        "serve.settings",
        "serve.logs",
    },
    "serve.triton": {"model", "pairs", "serve.backends", "serve.engine", "serve.settings", "serve.logs"},
    # the server mounts the page, and imports it only if it is to be served
    "serve.server": {"serve.http", "serve.backends", "serve.upscaling", "serve.settings", "ui"},
    "serve.command": {
        "model",
        "serve.server",
        "serve.http",
        "serve.backends",
        "serve.upscaling",
        "serve.settings",
        "serve.logs",
    },
    "serve": {"model", "pairs", "serve.engine"},
    "ui": {"pairs"},
    "bench.measurements": {"pairs"},
    "bench.pictures": {"model", "pairs", "serve.engine", "train"},
    "bench.detection": {"model", "pairs"},
    "bench.benchmarks": {"pairs", "bench.pictures", "bench.detection", "bench.measurements"},
    "bench.judging": {"pairs", "serve.child_process", "bench.benchmarks", "bench.pictures", "bench.json_lines"},
    "bench.report": {"pairs", "bench.judging", "bench.benchmarks", "bench.pictures", "bench.measurements"},
    "bench.speed.enlarging": {"model", "pairs", "serve.upscaling", "train", "bench.measurements", "bench.speed"},
    "bench": {"model", "pairs", "serve.engine", "train"},
}
PACKAGES = sorted({name.partition(".")[0] for name in ALLOWED})
COMMANDS = (
    "serve.command",
    "serve.generate_command",
    "serve.triton.command",
    "train.command",
    "bench.command",
    "model.checkpoints.convert",
    "ui.command",
)


def modules() -> dict[str, Path]:
    """Paths of our modules by dotted name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imports(module: str) -> frozenset[str]:
    """Our modules that a module imports anywhere in its source, except under TYPE_CHECKING."""
    tree = ast.parse(modules()[module].read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found & modules().keys())


def within(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    room = max((name for name in ALLOWED if within(module, {name})), key=len)
    above = {other for other in imports(module) if not within(other, {room, *ALLOWED[room]})}
    if room == "serve":  # modules directly in serve may import each other
        above = {other for other in above if other.rpartition(".")[0] != "serve"}
    assert not above, f"{module} imports {above}"


def test_imports_form_no_cycle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in imports(module):
                visit(other, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


@pytest.mark.parametrize("package", PACKAGES)
def test_package_names_resolve_inside_the_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_imports_no_heavy_library(module: str) -> None:
    result = run(
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        f"except SystemExit as end: assert end.code == 0\n"
        f"heavy = {{'torch', 'transformers', 'gradio', 'matplotlib'}} & set(sys.modules)\n"
        f"assert not heavy, heavy"
    )
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout


def test_the_server_process_imports_no_torch_and_no_transformers() -> None:
    """Engines run in their own processes; without torch here they start seconds earlier, during these imports.

    The process of Triton's Python backend is such a server, too.
    """
    result = run(
        "import importlib, sys\n"
        "for module in ('serve.server', 'serve.backends.loader', 'serve.backends.triton.loader',\n"
        "               'serve.triton.answers', 'ui.mount'):\n"
        "    importlib.import_module(module)\n"
        "    assert not {'torch', 'transformers'} & sys.modules.keys(), module\n"
    )
    assert result.returncode == 0, result.stderr


def test_an_engine_process_imports_no_http_library() -> None:
    result = run(
        "import sys, serve.backends.child\n"
        "found = {'starlette', 'fastapi', 'uvicorn', 'prometheus_client', 'gradio'} & set(sys.modules)\n"
        "assert not found, found"
    )
    assert result.returncode == 0, result.stderr
