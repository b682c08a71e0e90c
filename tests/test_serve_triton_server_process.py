"""The process of a model ends with Triton's."""

import subprocess
import sys
from pathlib import Path

import pytest

# Triton's part: starts the model's process, names itself in its command line, and ends, when it is told to
SERVER = """
import os, subprocess, sys, time
model = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:4], str(os.getpid())])
if sys.argv[3] == "after":
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
"""
MODEL = """
import os, sys, time
from pathlib import Path
from serve.triton.server_process import end_with_server
if sys.argv[2] == "before":
    while os.getppid() == int(sys.argv[3]):
        time.sleep(0.01)
end_with_server()
Path(sys.argv[1]).write_text("it goes on")
time.sleep(60)
Path(sys.argv[1]).write_text("it still goes on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux")
@pytest.mark.parametrize("ends", ["before", "after"])
def test_a_model_ends_with_the_server_even_if_that_ended_before_it_began(tmp_path: Path, ends: str) -> None:
    """The pipe of its output ends when the last process that holds it does."""
    file = tmp_path / "file"
    subprocess.run(
        [sys.executable, "-c", SERVER, MODEL, str(file), ends], check=True, timeout=60, stdout=subprocess.PIPE
    )
    assert file.exists() == (ends == "after")
    if file.exists():
        assert file.read_text() == "it goes on"
