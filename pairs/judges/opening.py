"""Open a judge from its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pairs.judges.exact.exact_judge import ExactJudge
from pairs.judges.judge import Judge
from pairs.judges.settings import AT_ONCE, JudgeSettings
from pairs.judges.vlm.cache import CachedVlm
from pairs.judges.vlm.endpoint import EndpointVlm
from pairs.judges.vlm.questions import Questions
from pairs.judges.vlm.vlm import Vlm
from pairs.judges.vlm.vlm_judge import VlmJudge


@dataclass(frozen=True)
class OpenedJudge:
    """A judge that is ready to judge.

    identity: kind, model, digest of the model's weights and digest of the questions, as manifests record them; judges
        with equal identities give equal scores, as far as their models do.
    at_once: pictures to give it in one call.
    reads: whether it can judge pictures of a prompt at all.
    stop: ends calls in progress, for good and from any thread: what they have not judged yet has failed. Judges that
        compute on this machine finish their call.
    """

    judge: Judge
    identity: Mapping[str, str | None]
    at_once: int = AT_ONCE
    reads: Callable[[str], bool] = lambda prompt: True
    stop: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """Name in answers and tables."""
        return self.identity["judge model"] or "exact"


def open_judge(settings: JudgeSettings, *, device: str = "auto", cache: Path | None = None) -> OpenedJudge:
    """Open a judge.

    Args:
        settings: which one.
        device: of a local model; "auto" takes an accelerator where there is one.
        cache: SQLite file of a model's answers, made if missing; None asks again every time.

    Raises:
        JudgeError: the questions, the model or the cache cannot be read.
    """
    if settings.kind == "exact":
        exact = ExactJudge()
        return OpenedJudge(exact, _identity(settings), settings.at_once, exact.reads)
    questions = None if settings.questions is None else Questions.read(settings.questions)
    vlm: Vlm
    stop: Callable[[], None] = OpenedJudge.stop
    if settings.kind == "endpoint":
        assert settings.model is not None
        vlm = endpoint = EndpointVlm(
            settings.source, settings.model, key=settings.key, at_once=settings.at_once, seconds=settings.seconds
        )
        stop = endpoint.stop
        identity = _identity(settings, model=settings.model, questions=questions)
    else:
        from pairs.judges.vlm.local import load_local  # imports torch

        local = load_local(settings.source, device=device, batch=settings.at_once)
        vlm, identity = local, _identity(settings, model=local.name, weights=local.digest, questions=questions)
    if cache is not None:
        vlm = CachedVlm(vlm, cache, model=f"{identity['judge model']} {identity['judge weights']}")
    return OpenedJudge(VlmJudge(vlm, questions), identity, settings.at_once, stop=stop)


def _identity(
    settings: JudgeSettings, *, model: str | None = None, weights: str | None = None, questions: Questions | None = None
) -> dict[str, str | None]:
    return {
        "judge": settings.kind,
        "judge model": model,
        "judge weights": weights,
        "judge questions": None if questions is None else questions.digest,
    }
