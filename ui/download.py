"""Files of a comparison: all pictures in one PNG, and the settings that reproduce them as JSON."""

import base64
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from pairs.contact_sheet import contact_sheet
from ui.board import Board
from ui.settings import Comparison

_GAP = 8  # pixels
_SIDE = 256  # minimum side of a picture in the grid, in pixels


def save_grid(boards: Sequence[Board]) -> str:
    """Write all pictures to a PNG, one row (left, right) per model and seed; return its path."""
    rows = [
        [_picture(cell) for prompt in (0, 1) if (cell := board.cells[model, prompt, image].picture)]
        for board in boards
        for model in board.models
        for image in range(len(board.seeds))
    ]
    side = max(_SIDE, max(picture.width for row in rows for picture in row))
    path = _folder() / "pictures.png"
    contact_sheet(rows, side=side, gap=_GAP).save(path)
    return str(path)


def save_json(comparisons: Sequence[Comparison], boards: Sequence[Board]) -> str:
    """Write settings, seeds, shares of differing codes and judgements to a JSON file; return its path."""
    content = [
        {
            **asdict(comparison),
            "models": board.models,
            "seeds": board.seeds,
            "differing_codes": {f"{model}, seed {board.seeds[i]}": share for (model, i), share in board.shares.items()},
            "yes": {
                f"{model}, {('left', 'right')[prompt]}, seed {board.seeds[i]}": values
                for (model, prompt, i), values in board.judged.items()
            },
        }
        for comparison, board in zip(comparisons, boards, strict=True)
    ]
    path = _folder() / "comparison.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    return str(path)


def _picture(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="focusdiff-ui-"))
