"""Which rows of a data set can be trained on, and why the others cannot."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from model.errors import PromptError
from model.janus import Janus
from train.data.row import Row

_EXAMPLES = 3  # places named for each reason


@dataclass(frozen=True)
class Report:
    """Result of a validation.

    source: what was read.
    rows: number of rows read.
    pairs, singles: valid rows with two prompts, and with one.
    with_pictures: valid rows that have a picture of each prompt.
    skipped: places of the invalid rows, by reason.
    """

    source: str
    rows: int
    pairs: int
    singles: int
    with_pictures: int
    skipped: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.rows:,} rows. {self.pairs:,} pairs and {self.singles:,} single prompts are valid, "
            f"{self.with_pictures:,} of them with pictures; {sum(map(len, self.skipped.values())):,} are skipped"
        ]
        for reason, places in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            more = ", …" if len(places) > _EXAMPLES else ""
            lines.append(f"  {len(places):,} × {reason} ({', '.join(places[:_EXAMPLES])}{more})")
        return "\n".join(lines)


def validate(rows: Sequence[Row], janus: Janus, *, source: str) -> tuple[list[Row], Report]:
    """Check every prompt, and decode every picture once, so that training does not stop at a damaged one.

    Rows without pictures are valid if no row has any.

    Args:
        rows: as read.
        janus: the model that is to be trained; decides which prompts are too long.
        source: what the rows were read from, for the report.

    Returns:
        The valid rows in order, and a report.
    """
    need_pictures = any(row.pictures for row in rows)
    check = partial(_fault, janus=janus, need_pictures=need_pictures)
    with ThreadPoolExecutor() as pool:
        faults = list(tqdm(pool.map(check, rows), total=len(rows), desc="check", mininterval=1, disable=None))
    valid, skipped = [], defaultdict(list)
    for row, fault in zip(rows, faults, strict=True):
        if fault is None:
            valid.append(row)
        else:
            skipped[fault].append(row.place)
    pairs = sum(len(row.prompts) == 2 for row in valid)
    pictures = len(valid) if need_pictures else 0
    return valid, Report(source, len(rows), pairs, len(valid) - pairs, pictures, dict(skipped))


def _fault(row: Row, *, janus: Janus, need_pictures: bool) -> str | None:
    """Why a row cannot be trained on; None if it can."""
    for number, prompt in enumerate(row.prompts, start=1):
        name = f"prompt {number}" if len(row.prompts) > 1 else "the prompt"
        if prompt is None:
            return f"{name} is missing"
        if not isinstance(prompt, str):
            return f"{name} is not text"
        try:
            janus.encode(prompt, name=name)
        except PromptError as error:
            return str(error)
    if len(row.prompts) == 2 and str(row.prompts[0]).strip() == str(row.prompts[1]).strip():
        return "both prompts are the same"
    if not need_pictures:
        return None
    for number in range(1, len(row.prompts) + 1):
        picture = row.pictures[number - 1] if row.pictures else None
        name = f"picture {number}" if len(row.prompts) > 1 else "the picture"
        if picture is None:
            return f"{name} is missing"
        try:
            picture.open()
        except FileNotFoundError:
            return f"the file of {name} does not exist"
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's plugins raise all of these for damaged files
            return f"{name} cannot be read ({type(error).__name__})"
    return None
