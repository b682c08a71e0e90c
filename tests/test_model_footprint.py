"""Free memory within the limits that control groups set for containers and services."""

import math
from pathlib import Path

import psutil
import pytest
import torch

from model.checkpoints.footprint import available_bytes, cgroup_free_bytes

GROUPS = {
    # in a container with its own cgroup namespace
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/memory.max": "1000",
    "sys/fs/cgroup/memory.current": "700",
    "sys/fs/cgroup/memory.stat": "anon 500\ninactive_file 30\nactive_file 15\nslab_reclaimable 5\n",
}
SERVICE = {
    "proc/self/cgroup": "0::/system.slice/focus.service",
    "sys/fs/cgroup/system.slice/focus.service/memory.max": "max",
    "sys/fs/cgroup/system.slice/focus.service/memory.current": "100",
    "sys/fs/cgroup/system.slice/focus.service/memory.stat": "inactive_file 5\n",
    "sys/fs/cgroup/system.slice/memory.max": "900",
    "sys/fs/cgroup/system.slice/memory.current": "400",
    "sys/fs/cgroup/system.slice/memory.stat": "inactive_file 20\n",
}
VERSION_1 = {
    "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/x\n0::/",
    "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "2000",
    "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": "1200",
    "sys/fs/cgroup/memory/docker/x/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
}


@pytest.mark.parametrize(
    ("files", "room"),
    [
        (GROUPS, 1000 - 700 + 50),
        (GROUPS | {"sys/fs/cgroup/memory.max": "max"}, math.inf),
        (GROUPS | {"sys/fs/cgroup/memory.max": "600"}, 0),
        (SERVICE, 900 - 400 + 20),  # limited by the parent group
        (VERSION_1, 2000 - 1200 + 200),
        ({"proc/self/cgroup": "0::/gone"}, math.inf),
        ({}, math.inf),
    ],
)
def test_free_bytes_within_control_group_limits(tmp_path: Path, files: dict[str, str], room: float) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content.rstrip() + "\n")
    assert cgroup_free_bytes(tmp_path) == room


def test_available_bytes_respect_machine_and_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    free = available_bytes(torch.device("cpu"))
    assert 0 < free <= psutil.virtual_memory().total
    monkeypatch.setattr("model.checkpoints.footprint.cgroup_free_bytes", lambda: 12345)
    assert available_bytes(torch.device("cpu")) == 12345
