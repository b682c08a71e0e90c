"""Type of what parsers of benches are added to."""

import argparse
from typing import TypeAlias

from model.cli import CommandParser

Benches: TypeAlias = "argparse._SubParsersAction[CommandParser]"
