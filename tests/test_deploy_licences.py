"""The table of licences in the image."""

import shutil
import sysconfig
from collections.abc import Callable
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from deploy.licences import debian_packages, licence_of, python_packages


@pytest.fixture
def package(tmp_path: Path) -> Callable[[str], PathDistribution]:
    """A distribution with these lines of metadata."""

    def make(lines: str) -> PathDistribution:
        (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: x\nVersion: 1\n{lines}\n")
        return PathDistribution(tmp_path)

    return make


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        ("License-Expression: MIT AND Apache-2.0\nLicense: other", "MIT AND Apache-2.0"),
        ("License: Copyright 2020 us\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("Classifier: Topic :: Software\nLicense: BSD-3-Clause\n        All rights reserved", "BSD-3-Clause"),
        ("", "unknown"),
    ],
)
def test_the_most_precise_field_names_the_licence(
    package: Callable[[str], PathDistribution], lines: str, licence: str
) -> None:
    assert licence_of(package(lines)) == licence


def test_licences_of_packages_that_their_authors_name() -> None:
    rows = {name.lower(): licence for _, name, _, licence in python_packages(Path(sysconfig.get_path("purelib")))}
    assert rows["fastapi"] == "MIT"
    assert "BSD-3-Clause" in rows["torch"]
    assert "Apache" in rows["transformers"]


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="not a Debian")
def test_licences_of_debians_packages() -> None:
    rows = {name: licence for _, name, _, licence in debian_packages()}
    assert "GPL" in rows["bash"]
    assert "MIT" in next(licence for name, licence in rows.items() if name.startswith("ncurses-base"))
