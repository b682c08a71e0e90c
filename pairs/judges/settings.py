"""Settings of a judge, and their arguments on command lines. Imports no torch."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from pairs.judges.errors import JudgeError

Kind = Literal["exact", "endpoint", "local"]
AT_ONCE = 8
SECONDS = 60.0
SOURCE_HELP = (
    "exact, for the procedural world; the URL of an OpenAI-compatible endpoint (http://127.0.0.1:8001/v1); or a folder "
    "or hub id of a vision-language model in transformers' layout"
)
MODEL_HELP = "model name at the judge's endpoint"
KEY_HELP = "API key for the judge's endpoint"
QUESTIONS_HELP = "JSON file of long prompts' questions, as focusdiff-train questions writes it"
AT_ONCE_HELP = "questions asked at once: of an endpoint, or in a batch of a local model"
SECONDS_HELP = "time limit of a request to the judge's endpoint"
_TAKES: Mapping[Kind, frozenset[str]] = {  # settings besides the source
    "exact": frozenset({"at_once"}),
    "endpoint": frozenset({"model", "key", "questions", "at_once", "seconds"}),
    "local": frozenset({"questions", "at_once"}),
}
_KINDS: Mapping[Kind, str] = {"exact": "exact", "endpoint": "an endpoint's URL", "local": "a local model"}


@dataclass(frozen=True)
class JudgeSettings:
    """Settings that decide which judge is opened.

    source: "exact", the base URL of an endpoint with /v1, or a folder or hub id of a vision-language model.
    model, key: at an endpoint.
    questions: file of long prompts' questions (`pairs.judges.vlm.questions`).
    at_once: questions asked at once.
    seconds: time limit of a request to an endpoint.
    option: that names the source on the command line, in messages.

    Raises:
        JudgeError: a setting is invalid, missing or of another kind of judge.
    """

    source: str = "exact"
    model: str | None = None
    key: str = field(default="none", repr=False)
    questions: Path | None = None
    at_once: int = AT_ONCE
    seconds: float = SECONDS
    option: str = "--judge"

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise JudgeError(f"{self.option}-at-once must be at least 1, not {self.at_once}")
        if not self.seconds > 0:
            raise JudgeError(f"{self.option}-seconds must be above 0, not {self.seconds:g}")
        for setting in fields(self):
            takers = [kind for kind, names in _TAKES.items() if setting.name in names]
            if takers and self.kind not in takers and getattr(self, setting.name) != setting.default:
                needed = " or ".join(_KINDS[kind] for kind in takers)
                name = f"{self.option}-{setting.name.replace('_', '-')}"
                raise JudgeError(f"{name} needs {self.option} to be {needed}, not {self.source}")
        if self.kind == "endpoint" and not self.model:
            raise JudgeError(f"{self.option}-model must name the model at {self.source}")
        if self.kind == "local" and not self._is_folder and not self._may_be_hub_id:
            raise JudgeError(f"{self.option}: no folder {self.source!r}; it must be {SOURCE_HELP}")

    @property
    def kind(self) -> Kind:
        if self.source == "exact":
            return "exact"
        return "endpoint" if self.source.startswith(("http://", "https://")) else "local"

    @property
    def _is_folder(self) -> bool:
        return Path(self.source).expanduser().is_dir()

    @property
    def _may_be_hub_id(self) -> bool:
        return self.source.count("/") == 1 and not self.source.startswith((".", "/", "~"))


def add_judge_arguments(parser: argparse.ArgumentParser, name: str = "judge") -> None:
    """Add the arguments of a judge that `judge_settings` reads, named --`name`, --`name`-model and so on."""
    group = parser.add_argument_group(name)
    group.add_argument(f"--{name}", default="exact", metavar="JUDGE", help=f"{SOURCE_HELP} (default: exact)")
    group.add_argument(f"--{name}-model", metavar="NAME", help=MODEL_HELP)
    group.add_argument(f"--{name}-key", default="none", metavar="KEY", help=KEY_HELP)
    group.add_argument(f"--{name}-questions", type=Path, metavar="FILE", help=QUESTIONS_HELP)
    group.add_argument(
        f"--{name}-at-once", type=int, default=AT_ONCE, metavar="N", help=f"{AT_ONCE_HELP} (default: %(default)s)"
    )
    group.add_argument(
        f"--{name}-seconds", type=float, default=SECONDS, metavar="S", help=f"{SECONDS_HELP} (default: %(default)g)"
    )


def judge_settings(arguments: argparse.Namespace, name: str = "judge") -> JudgeSettings:
    """Settings from parsed arguments.

    Raises:
        JudgeError: one is invalid.
    """
    return JudgeSettings(
        source=getattr(arguments, name),
        model=getattr(arguments, f"{name}_model"),
        key=getattr(arguments, f"{name}_key"),
        questions=getattr(arguments, f"{name}_questions"),
        at_once=getattr(arguments, f"{name}_at_once"),
        seconds=getattr(arguments, f"{name}_seconds"),
        option=f"--{name}",
    )
