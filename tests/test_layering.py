"""The imports between packages, read from the source, and where their names resolve."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "pairs": set(),
    "model": {"pairs"},
    "train": {"model", "pairs"},
    "serve": {"model", "pairs"},  # and, where it mounts the page, ui
    "ui": {"pairs"},
    "bench": {"model", "pairs", "serve", "train"},
}
COMMANDS = ("serve.command", "serve.generate_command", "train.command", "bench.command", "model.convert", "ui.command")


def imported_packages(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        allowed = ALLOWED[package] | ({"ui"} if path.name == "server.py" else set())
        reached = imported_packages(path) & (set(ALLOWED) - {package})
        assert reached <= allowed, f"{path.relative_to(ROOT)} imports {reached - allowed}"


@pytest.mark.parametrize("package", ALLOWED)
def test_package_names_resolve_inside_the_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_answers_without_importing_anything_heavy(module: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        f"except SystemExit as end: assert end.code == 0\n"
        f"heavy = {{'torch', 'transformers', 'gradio', 'matplotlib'}} & set(sys.modules)\n"
        f"assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout


@pytest.mark.parametrize("module", ["serve.server", "serve.process_backend", "ui.mount"])
def test_the_process_that_answers_imports_no_torch(module: str) -> None:
    """Engines have processes of their own, and start seconds earlier while this one imports what it needs."""
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
