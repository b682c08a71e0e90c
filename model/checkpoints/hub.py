"""Find a checkpoint by shipped name, folder or hub id."""

from pathlib import Path

from model.checkpoints.shipped import SHIPPED, shipped_names
from model.errors import CheckpointError, first_line

_SMALL_PATTERNS = ["*.json", "tokenizer*"]
_WEIGHT_PATTERNS = ["*.safetensors", "*.bin"]


def find_folder(name: str, revision: str | None, *, weights: bool = True) -> tuple[str, Path]:
    """Resolve a shipped name, folder or hub id to the model's name and folder; hub repositories are downloaded.

    Args:
        name: shipped name, folder or hub id.
        revision: of the hub repository.
        weights: whether they are downloaded, too.

    Raises:
        CheckpointError: there is no such model, or it cannot be downloaded.
    """
    return find_here(name) or (name, _download(name, revision, _SMALL_PATTERNS + _WEIGHT_PATTERNS * weights))


def find_here(name: str) -> tuple[str, Path] | None:
    """Resolve a shipped name or folder to the model's name and folder; None for a hub id.

    Raises:
        CheckpointError: it is none of these.
    """
    if name in shipped_names():
        return name, SHIPPED / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve().name, path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.exists():
        return None
    if path.exists():
        raise CheckpointError(
            f"{name} is a file: give the checkpoint's folder (a .pt state dict is given with --weights)"
        )
    raise CheckpointError(f"no model {name!r}: give a folder, a hub id (owner/name){_shipped()}")


def _shipped() -> str:
    return "".join(f", or {known}" for known in shipped_names()) or " (make a small one: make train)"


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise CheckpointError(f"{name}: no such folder, and not available from the hub ({first_line(error)})") from None
    except GatedRepoError:
        raise CheckpointError(f"{name}: is gated; accept its terms on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{name}: no such repository on the hub, or a private one (set HF_TOKEN); give a folder, a hub id{_shipped()}"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{name}: no revision {revision!r} on the hub") from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"{name}: the hub refused ({first_line(error)})") from None
    except Exception as error:  # a full disk, or any other error that the hub's transports raise
        raise CheckpointError(f"{name}: cannot be downloaded ({first_line(error)})") from None
