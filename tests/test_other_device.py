"""On a device that mixes with no other, as GPUs do, the same is drawn and trained as on a CPU."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch.utils.backend_registration
from safetensors.torch import load_file

from model.checkpoints.load import load
from tests.forked_command import ForkedCommand
from tests.grpo_runs import rows
from tests.other_device import draw_on_it, drawn, trained

ROOT = Path(__file__).parent.parent

needs_python_devices = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs a PyTorch to which Python code can add a device",
)


@needs_python_devices
def test_codes_are_those_of_a_cpu(small_folder: Path, tmp_path: Path) -> None:
    """With filters, a negative prompt and greedy; previews are drawn, too."""
    ended = ForkedCommand(partial(draw_on_it, small_folder, tmp_path / "drawn.json"), log=tmp_path / "log")
    assert ended.wait() == 0, ended.printed
    found = json.loads((tmp_path / "drawn.json").read_text())
    assert (len(found["codes"]), found["previews"]) == (4, 2)
    assert found == drawn(load(small_folder, device="cpu"))


@pytest.mark.long
@needs_python_devices
def test_training_is_that_of_a_cpu(small_folder: Path, tmp_path: Path) -> None:
    """GRPO with filters, KL term, two updates, credit and sheets; adapters; fine-tuning with Muon and an average."""
    other, cpu = tmp_path / "other", tmp_path / "cpu"
    command = [sys.executable, "-m", "tests.other_device", str(small_folder), str(other)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    trained(small_folder, "cpu", cpu)
    for run in ("grpo", "adapters"):
        for found, expected in zip(rows(other / run), rows(cpu / run), strict=True):
            for name in ("reward", "kl", "entropy", "gradient norm", "clip share", "live groups"):
                assert found[name] == pytest.approx(expected[name], rel=0.02, abs=1e-3), (run, name)
    start = load_file(small_folder / "model.safetensors")
    for run in ("grpo", "adapters", "sft"):
        weights, others = (load_file(folder / run / "latest" / "model.safetensors") for folder in (cpu, other))
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            assert (others[name] - weight).norm() <= 0.02 * (weight - start[name]).norm(), (run, name)
