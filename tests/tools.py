"""Marks for tests that need a program; without it they are skipped, or fail if FOCUSDIFF_TEST_TOOLS=required."""

import importlib.util
import os
import shutil

import pytest

from model.cpu.library import native_library
from serve.settings.reading import ConfigError
from serve.triton.launch import Installation

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _needs(program: object, reason: str) -> pytest.MarkDecorator:
    required = os.environ.get("FOCUSDIFF_TEST_TOOLS") == "required"
    return pytest.mark.skipif(program is None and not required, reason=reason)


def _triton() -> Installation | None:
    try:
        return Installation.find()
    except ConfigError:
        return None


needs_browser = _needs(CHROMIUM, "no Chromium on this machine (Debian: apt-get install chromium)")
needs_compiler = _needs(native_library(), "no C compiler on this machine (Debian: apt-get install gcc libc6-dev)")
needs_kernels = _needs(importlib.util.find_spec("triton"), "no Triton compiler for this machine (PyPI: triton)")
needs_triton = _needs(_triton(), "no Triton server on this machine (make installs one on Linux with x86-64)")
needs_curl = _needs(shutil.which("curl"), "no curl on this machine (Debian: apt-get install curl)")
needs_nginx = _needs(shutil.which("nginx"), "no nginx on this machine (Debian: apt-get install nginx)")
needs_promtool = _needs(shutil.which("promtool"), "no promtool on this machine (Debian: apt-get install prometheus)")
