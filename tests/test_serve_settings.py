"""Settings: their sources and precedence, error messages, and the output of --help and --print-config."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from serve.settings.model_source import ModelSource
from serve.settings.reading import ConfigError, read_settings
from serve.settings.server import Settings


def test_flags_override_the_environment_which_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\nslots = 1\nqueue = 21\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("FOCUSDIFF_SLOTS", "2")
    monkeypatch.setenv("FOCUSDIFF_QUEUE", "22")
    settings = read_settings(Settings, ["--config", str(file), "--queue", "23"])
    assert (settings.port, settings.slots, settings.queue, settings.host) == (1, 2, 23, "0.0.0.0")
    monkeypatch.setenv("FOCUSDIFF_CONFIG", str(file))
    assert read_settings(Settings, []).port == 1


def test_models_by_flag_environment_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, base = ModelSource(name="tiny", source="tiny"), ModelSource(name="base", source="tiny-base")
    assert read_settings(Settings, []).models == (tiny,)
    assert read_settings(Settings, ["--model", "tiny", "--model", "base=tiny-base"]).models == (tiny, base)
    assert read_settings(Settings, ["--model", "tiny,base=tiny-base"]).models == (tiny, base)
    monkeypatch.setenv("FOCUSDIFF_MODELS", "base=tiny-base")
    assert read_settings(Settings, []).models == (base,)
    monkeypatch.delenv("FOCUSDIFF_MODELS")
    file = tmp_path / "serve.toml"
    file.write_text('[[models]]\nname = "focus"\nsource = "owner/name"\nweights = "focus.pt"\n')
    (one,) = read_settings(Settings, ["--config", str(file)]).models
    assert (one.name, one.source, one.weights) == ("focus", "owner/name", Path("focus.pt"))


def test_a_model_from_a_folder_is_named_after_the_folder(tmp_path: Path) -> None:
    assert ModelSource.parse(f"{tmp_path}/").name == tmp_path.name
    assert ModelSource.parse("owner/name").name == "owner/name"


def test_common_settings_fill_in_what_a_model_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        'tokenizer = "a"\n[[models]]\nname = "x"\nsource = "x"\n[[models]]\nname="y"\nsource="y"\ntokenizer="b"'
    )
    assert [one.tokenizer for one in read_settings(Settings, ["--config", str(file)]).sources] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slots", "0"], "slots: "),
        (["--slots", "many"], "slots: "),
        (["--queue", "19"], "queue: "),
        (["--port", "70000"], "port: "),
        (["--max-body-mib", "300"], "bodies_mib must be at least max_body_mib (300), not 256"),
        (["--rate-limit", "often"], "rate_limit: must be a number of images"),
        (["--model", "tiny", "--model", "tiny"], "two models are called 'tiny'"),
        (["--model", "a=tiny", "--model", "b=tiny", "--weights", "x.pt"], "weights suits one model"),
        (["--aliases", "gpt-image-1=other"], "alias 'gpt-image-1' stands for 'other', which is not served"),
        (["--config", "/no/such/file.toml"], "config: no such file: /no/such/file.toml"),
        (["--public-url", "here"], "public_url: "),
        (["--triton-url", "a:8001"], "triton_url needs --backend triton"),
        (["--backend", "triton"], "--backend triton needs --triton-url host:8001"),
        (["--backend", "triton", "--triton-url", "http://a:8001"], "triton_url must be host:port, not 'http://a:8001'"),
        (["--backend", "triton", "--triton-url", "a:8001,a:8001"], "triton_url: the same address twice"),
        (["--backend", "triton", "--triton-url", "a:8001", "--slots", "3"], "slots is a setting of engines"),
        (["--backend", "triton", "--triton-url", "a:8001", "--watch", "run"], "watch is a setting of engines"),
    ],
)
def test_an_unusable_value_is_a_one_line_error_that_names_the_setting(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_settings(Settings, arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_file_and_an_unknown_setting_are_named(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("slotts = 3\n")
    with pytest.raises(ConfigError, match="slotts"):
        read_settings(Settings, ["--config", str(file)])
    file.write_text("slots = = 3\n")
    with pytest.raises(ConfigError, match=r"serve\.toml"):
        read_settings(Settings, ["--config", str(file)])


def test_keys_come_from_settings_and_file_and_are_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nsecret-b\n\nsecret-c\n")
    settings = read_settings(
        Settings, ["--api-keys", "secret-a", "--api-keys-file", str(file), "--admin-key", "secret-d"]
    )
    assert [key.get_secret_value() for key in settings.keys] == ["secret-a", "secret-b", "secret-c"]
    assert "secret" not in settings.model_dump_json() + repr(settings)
    file.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="holds no key"):
        _ = settings.keys


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().slots = 3


def test_help_names_values_instead_of_python_types() -> None:
    command = [sys.executable, "-m", "serve.command", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for types in ("tuple", "dict[", "SecretStr", "AnyUrl", "[JSON", "(default: None)", "ModelSource"):
        assert types not in said
    assert re.findall(r" (?:str|int|float|bool|Path)\b", said) == []
    for field in Settings.model_fields:
        assert f"--{field.replace('_', '-')}" in said
    assert "--port NUMBER" in said
    assert "(default: 8000)" in said


def test_print_config_prints_every_setting_without_importing_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "serve.command", "--print-config", "--slots", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["slots"] == 3
    assert set(json.loads(ended.stdout)) == set(Settings.model_fields)
    assert " torch\n" not in ended.stderr
