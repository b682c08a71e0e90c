"""Judging by a vision-language model: what is asked about which prompt, files of questions, and opening a judge."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from pairs.judges.errors import JudgeError
from pairs.judges.exact.exact_judge import ExactJudge
from pairs.judges.judge import Judgement
from pairs.judges.opening import open_judge
from pairs.judges.settings import JudgeSettings
from pairs.judges.vlm.local import load_local
from pairs.judges.vlm.questions import LONG, Questions
from pairs.judges.vlm.vlm_judge import VlmJudge
from tests.tiny_vlm import save_tiny_vlm
from tests.vlm_endpoint import VlmEndpoint, picture

LONG_PROMPT = " ".join(f"word{i}" for i in range(LONG + 1))
SUFFIX = " Please directly respond with yes or no."


class Answers:
    """A model whose answers are listed, by picture and question."""

    def __init__(self, answers: dict[tuple[int, str], float | None]) -> None:
        self.answers = answers

    def yes(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float | None]:
        reds = [one.getpixel((0, 0))[0] for one in pictures]  # type: ignore[index]
        return [self.answers[int(red), question] for red, question in zip(reds, questions, strict=True)]


def paircomp(prompt: str) -> str:
    return f'Does this image match the description "{prompt}", please directly respond with yes or no'


def test_a_long_prompt_has_the_mean_of_its_questions_and_a_short_one_paircomps() -> None:
    questions = Questions({LONG_PROMPT: ("Is it red?", "Are there two?"), "a hare": ("Is there a hare?",)})
    vlm = Answers(
        {
            (1, paircomp("a cat")): 0.25,
            (2, "Is it red?" + SUFFIX): 0.5,
            (2, "Are there two?" + SUFFIX): 1.0,
            (3, "Is it red?" + SUFFIX): 0.125,
            (3, "Are there two?" + SUFFIX): None,
            (4, "Is there a hare?" + SUFFIX): 0.75,
            (5, paircomp('a {"dog"}')): None,
        }
    )
    pictures = [picture(red) for red in (1, 2, 3, 4, 5)]
    judged = VlmJudge(vlm, questions)(pictures, ["a cat", LONG_PROMPT, LONG_PROMPT, "a hare", 'a {"dog"}'])
    assert judged == [
        Judgement(0.25),
        Judgement(0.75, {"Is it red?": 0.5, "Are there two?": 1.0}),
        None,  # one question failed
        Judgement(0.75, {"Is there a hare?": 0.75}),
        None,
    ]


def test_a_long_prompt_without_questions_is_not_judged_if_others_have_some() -> None:
    vlm = Answers({(1, paircomp(LONG_PROMPT)): 0.5, (2, paircomp("a cat")): 0.25})
    pictures = [picture(1), picture(2)]
    assert VlmJudge(vlm, Questions({}))(pictures, [LONG_PROMPT, "a cat"]) == [None, Judgement(0.25)]
    assert VlmJudge(vlm)(pictures, [LONG_PROMPT, "a cat"]) == [Judgement(0.5), Judgement(0.25)]


def test_questions_come_back_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    file.write_text(json.dumps({" a prompt ": ["Is it?", " Are they? "]}))
    found = Questions.read(file)
    assert found.of("a prompt\n") == ("Is it?", "Are they?")
    assert found.of("another") == ()
    assert found.digest == Questions({"a prompt": ("Is it?", "Are they?")}).digest
    assert found.digest != Questions({"a prompt": ("Are they?", "Is it?")}).digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must be a JSON object"),
        ('{"a": "Is it?"}', "the questions of 'a' must be a list"),
        ('{"a": []}', "the questions of 'a' must be a list of at least one text"),
        ('{"a": ["Is it?", 3]}', "the questions of 'a' must be a list"),
        ('{"a": ["Is it?", "Is it? "]}', "'a' has a question twice"),
    ],
)
def test_an_unusable_file_of_questions_is_named(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "questions.json"
    file.write_text(content)
    with pytest.raises(JudgeError, match=r"questions\.json") as error:
        open_judge(JudgeSettings("http://127.0.0.1:9/v1", model="vlm", questions=file))
    assert said in str(error.value)


def test_an_endpoint_is_opened_with_its_questions_and_cache(endpoint: VlmEndpoint, tmp_path: Path) -> None:
    file, cache = tmp_path / "questions.json", tmp_path / "cache.sqlite"
    file.write_text(json.dumps({LONG_PROMPT: ["Is it red?"]}))
    settings = JudgeSettings(endpoint.url, model="vlm", questions=file, at_once=3)
    for _ in range(2):
        opened = open_judge(settings, cache=cache)
        (judgement,) = opened.judge([picture(51)], [LONG_PROMPT])
        assert judgement is not None
        assert judgement.factors == {"Is it red?": pytest.approx(0.2)}
    assert endpoint.questions == {"Is it red?" + SUFFIX: 1}
    assert opened.identity == {
        "judge": "endpoint",
        "judge model": "vlm",
        "judge weights": None,
        "judge questions": Questions.read(file).digest,
    }
    assert (opened.name, opened.at_once) == ("vlm", 3)


def test_a_local_model_is_opened_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-vlm"
    save_tiny_vlm(folder)
    opened = open_judge(JudgeSettings(str(folder)), device="cpu")
    vlm = load_local(str(folder), device="cpu", batch=1)
    (judgement,) = opened.judge([picture(51)], ["a cat"])
    assert judgement is not None
    assert [judgement.score] == pytest.approx(vlm.yes([picture(51)], [paircomp("a cat")]))
    assert opened.identity == {
        "judge": "local",
        "judge model": "tiny-vlm",
        "judge weights": vlm.digest,
        "judge questions": None,
    }


def test_the_exact_judge_needs_nothing() -> None:
    opened = open_judge(JudgeSettings())
    assert isinstance(opened.judge, ExactJudge)
    assert opened.name == "exact"
    assert opened.identity == {
        "judge": "exact",
        "judge model": None,
        "judge weights": None,
        "judge questions": None,
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "http://127.0.0.1:9/v1"}, "--judge-model must name the model at http://127.0.0.1:9/v1"),
        ({"model": "vlm"}, "--judge-model needs --judge to be an endpoint's URL, not exact"),
        ({"key": "sk"}, "--judge-key needs --judge to be an endpoint's URL, not exact"),
        (
            {"source": "owner/vlm", "seconds": 1.0},
            "--judge-seconds needs --judge to be an endpoint's URL, not owner/vlm",
        ),
        (
            {"questions": Path("a.json")},
            "--judge-questions needs --judge to be an endpoint's URL or a local model, not exact",
        ),
        ({"key": "sk", "option": "--selector"}, "--selector-key needs --selector to be an endpoint's URL"),
        ({"source": "exatc"}, "no folder 'exatc'"),
        ({"source": "./missing"}, "no folder './missing'"),
        ({"at_once": 0}, "--judge-at-once must be at least 1, not 0"),
        ({"seconds": 0.0}, "--judge-seconds must be above 0, not 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(JudgeError) as error:
        JudgeSettings(**settings)  # type: ignore[arg-type]
    assert said in str(error.value)
