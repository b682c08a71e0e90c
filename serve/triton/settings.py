"""Settings of `focusdiff-triton`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg

from serve.settings.engine import EngineSettings
from serve.settings.reading import config_of


class TritonSettings(EngineSettings, BaseSettings):
    """Frozen settings of `focusdiff-triton`."""

    model_config = config_of("focusdiff-triton")

    repository: CliPositionalArg[Path] = Field(description="folder to write the model repository to")
    serve: bool = Field(default=False, description="then serve it, and end when a model is dead")
    host: str = Field(default="127.0.0.1", description="address that Triton listens on")
    grpc_port: int = Field(default=8001, ge=1, le=65535, description="port of Triton's gRPC service")
    http_port: int = Field(default=8003, ge=1, le=65535, description="port of Triton's HTTP service")
    metrics_port: int = Field(default=8002, ge=1, le=65535, description="port of Triton's metrics")
    silence_seconds: float = Field(
        default=30, gt=0, description="seconds without an answer after which a model is taken for dead"
    )
    drain_seconds: float = Field(
        default=60, ge=0, description="time in seconds to finish accepted requests when stopping"
    )
    config: Path | None = Field(default=None, description="TOML file with any of these settings")
