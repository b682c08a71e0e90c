"""Settings of `focusdiff-serve`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AnyUrl, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from pairs.files import user_file
from pairs.judges.settings import (
    AT_ONCE,
    AT_ONCE_HELP,
    KEY_HELP,
    MODEL_HELP,
    QUESTIONS_HELP,
    SECONDS,
    SECONDS_HELP,
    SOURCE_HELP,
    JudgeSettings,
)
from serve.settings.engine import EngineSettings, split
from serve.settings.reading import ConfigError, config_of

_OF_ENGINES = {"watch", *EngineSettings.model_fields} - {"models", "log_level", "log_format"}


class Settings(EngineSettings, BaseSettings):
    """Frozen settings of `focusdiff-serve`."""

    model_config = config_of("focusdiff-serve")

    aliases: dict[str, str] = Field(
        default={}, description="other names of served models, as ALIAS=NAME (gpt-image-1=tiny)"
    )
    watch: Path | None = Field(
        default=None, description="folder of a training run; its newest complete checkpoint is also served"
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    public_url: AnyUrl | None = Field(
        default=None, description="URL of the server for clients, used for links in answers"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins of web pages that may call the API (https://example.org)"
    )
    max_body_mib: float = Field(default=32, gt=0, description="largest request body in MiB")
    bodies_mib: float = Field(
        default=256,
        gt=0,
        description="MiB of all request bodies that are held at once, until they are answered; the first 64 KiB of each "
        "do not count",
    )
    body_seconds: float = Field(
        default=30,
        gt=0,
        description="time to send a body in seconds, and one more for each 4 KiB; answers must be read as fast",
    )
    header_kib: float = Field(default=32, gt=0, description="largest request line with its headers in KiB")
    headers: int = Field(default=100, ge=1, description="largest number of headers")
    header_seconds: float = Field(default=20, gt=0, description="time to send the headers in seconds")
    connections: int = Field(
        default=1000, ge=1, description="open connections; one more ends the one that has kept us waiting for longest"
    )
    connections_per_address: int = Field(
        default=256,
        ge=0,
        description="open connections of one address, 0 for any number; not for this machine's own addresses and the "
        "proxies in FORWARDED_ALLOW_IPS",
    )

    backend: Literal["engine", "triton"] = Field(
        default="engine", description="where images are drawn: by this server's engines, or by Triton servers"
    )
    triton_url: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="gRPC address of a Triton server, as host:8001; repeat for several"
    )
    triton_silence_seconds: float = Field(
        default=10, ge=1, description="seconds without an answer after which a Triton server is given up"
    )

    request_seconds: float = Field(default=600, gt=0, description="time limit of a request in seconds")
    drain_seconds: float = Field(
        default=60, ge=0, description="time in seconds to finish accepted requests when stopping"
    )

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="keys accepted from clients; safer in the environment or a file than as a flag"
    )
    api_keys_file: Path | None = Field(default=None, description="file with more API keys, one per line")
    admin_key: SecretStr | None = Field(default=None, description="key for the /admin routes, which are off without it")
    rate_limit: str | None = Field(default=None, description="limit on images per API key: 60/minute, 1000/hour")

    store: str | None = Field(
        default=None,
        description="folder or fsspec URL for pictures of response_format url (default: a temporary folder)",
    )
    store_seconds: float = Field(default=3600, gt=0, description="seconds for which stored pictures are kept")
    store_mib: float = Field(default=1024, gt=0, description="MiB of stored pictures; the oldest are removed first")
    fit: Literal["pad", "crop", "refuse"] = Field(
        default="pad",
        description="for sizes that are not square: pad the square that is drawn, crop it, or refuse the request",
    )
    upscaler: Path | None = Field(
        default=None,
        description="super-resolution model, .pth or .safetensors, for sizes above the models' own (docs/api.md)",
    )
    strict: bool = Field(
        default=False,
        description="refuse fields that are not of this API, sizes that the model does not draw, and OpenAI's model "
        "names (gpt-image-1, dall-e-3 …), which otherwise mean the first model",
    )
    a1111: bool = Field(default=True, description="also serve the interface of AUTOMATIC1111's web UI, at /sdapi/v1")
    judge: str | None = Field(default=None, description=f"judge of pictures: {SOURCE_HELP}")
    judge_model: str | None = Field(default=None, description=MODEL_HELP)
    judge_key: SecretStr = Field(default=SecretStr("none"), description=KEY_HELP)
    judge_questions: Path | None = Field(default=None, description=QUESTIONS_HELP)
    judge_at_once: int = Field(default=AT_ONCE, description=AT_ONCE_HELP)
    judge_seconds: float = Field(default=SECONDS, description=SECONDS_HELP)

    ui: bool = Field(default=True, description="serve the demo page at /")
    votes: Path = Field(default=user_file("votes.sqlite"), description="SQLite file for the demo's votes")
    paircomp: Path | None = Field(default=None, description="PairComp.json, to choose pairs from on the demo page")
    log_prompts: bool = Field(default=False, description="write prompts to the log")

    config: Path | None = Field(default=None, description="TOML file with any of these settings")
    print_config: bool = Field(default=False, description="print the settings as JSON and exit")

    @field_validator("api_keys", "cors_origins", "triton_url", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split(value)

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d* ?/ ?(second|minute|hour|day)", value):
            raise ValueError("must be a number of images a second, minute, hour or day: 60/minute")
        return value

    @field_validator("upscaler")
    @classmethod
    def _upscaler_file(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix not in (".pth", ".safetensors"):
            raise ValueError(f"must be a .pth or .safetensors file, not {str(value)!r}")
        if value is not None and not value.is_file():
            raise ValueError(f"no such file: {value}")
        return value

    @model_validator(mode="after")
    def _bodies_fit(self) -> Self:
        if self.bodies_mib < self.max_body_mib:
            raise ValueError(
                f"bodies_mib must be at least max_body_mib ({self.max_body_mib:g}), not {self.bodies_mib:g}"
            )
        return self

    @model_validator(mode="after")
    def _aliases_fit(self) -> Self:
        names = [model.name for model in self.models]
        for alias, name in self.aliases.items():
            if name not in names:
                raise ValueError(f"alias {alias!r} stands for {name!r}, which is not served")
        return self

    @model_validator(mode="after")
    def _backend_fits(self) -> Self:
        if self.backend == "engine" and self.triton_url:
            raise ValueError("triton_url needs --backend triton")
        if self.backend == "triton":
            if not self.triton_url:
                raise ValueError("--backend triton needs --triton-url host:8001")
            for url in self.triton_url:
                if not re.fullmatch(r"[^\s/]+:\d{1,5}", url):
                    raise ValueError(f"triton_url must be host:port, not {url!r}")
            if len(set(self.triton_url)) < len(self.triton_url):
                raise ValueError("triton_url: the same address twice")
            if any(model.weights or model.tokenizer or model.revision for model in self.models):
                raise ValueError(
                    "weights, tokenizer and revision are settings of engines: give them to focusdiff-triton"
                )
            if given := sorted(_OF_ENGINES & self.model_fields_set):
                raise ValueError(
                    f"{given[0]} is a setting of engines: give it to focusdiff-triton, not to a front of Triton"
                )
        return self

    @model_validator(mode="after")
    def _judge_can_be_opened(self) -> Self:
        _ = self.judge_settings
        return self

    @property
    def judge_settings(self) -> JudgeSettings | None:
        """Settings of the judge, if there is one; raises JudgeError if one is invalid."""
        if self.judge is None:
            return None
        return JudgeSettings(
            source=self.judge,
            model=self.judge_model,
            key=self.judge_key.get_secret_value(),
            questions=self.judge_questions,
            at_once=self.judge_at_once,
            seconds=self.judge_seconds,
        )

    @property
    def keys(self) -> tuple[SecretStr, ...]:
        """Client keys, including those of `api_keys_file`.

        Raises:
            ConfigError: the file cannot be read or holds no key.
        """
        if self.api_keys_file is None:
            return self.api_keys
        try:
            lines = [line.strip() for line in self.api_keys_file.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_keys_file: {error}") from None
        keys = [SecretStr(line) for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ConfigError(f"api_keys_file: {self.api_keys_file} holds no key")
        return (*self.api_keys, *keys)
