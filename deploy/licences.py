"""Write a table of the packages of this system and their licences: kind, name, version, licence, one a line.

    python3 licences.py FILE

Covers Debian's packages, and Python's in the environment of `focusdiff-serve`, or else of this interpreter.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

Row = tuple[str, str, str, str]


def python_packages(folder: Path) -> Iterator[Row]:
    """Packages in a site-packages folder."""
    for package in distributions(path=[str(folder)]):
        yield "python", package.metadata["Name"], package.version, licence_of(package)


def licence_of(package: Distribution) -> str:
    """SPDX expression, else the classifiers, else the first line of the licence field, else "unknown"."""
    names = ("License-Expression", "Classifier", "License")
    expression, classifiers, field = (package.metadata.get_all(name) or [] for name in names)
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::")]
    lines = "".join(field).strip().splitlines()
    return "".join(expression) or " and ".join(named) or (lines[0] if lines else "unknown")


def debian_packages() -> Iterator[Row]:
    """Installed Debian packages, with the licences that their copyright files name."""
    query = ["dpkg-query", "--show", "--showformat", "${binary:Package}\t${Version}\n"]
    for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines():
        name, version = line.split("\t")
        file = Path("/usr/share/doc", name.partition(":")[0], "copyright")
        text = file.read_text(errors="replace") if file.exists() else ""
        found = sorted(set(re.findall(r"^License: *(\S.*)$", text, re.M)))
        yield "debian", name, version, ", ".join(found) or f"see {file}"


def main() -> None:
    """Write the table to the file that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python3 licences.py FILE")
    command = shutil.which("focusdiff-serve")
    interpreter = Path(command).with_name("python3") if command else Path(sys.executable)
    ask = [str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    rows = sorted({*debian_packages(), *python_packages(site)}, key=lambda row: (row[0], row[1].lower()))
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join("\t".join(row) + "\n" for row in [("kind", "name", "version", "licence"), *rows]))


if __name__ == "__main__":
    main()
