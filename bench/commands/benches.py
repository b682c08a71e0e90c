"""Type of what parsers of benches are added to."""

import argparse
from typing import TypeAlias

Benches: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
