"""Construct a data set of pairs from many edits, resumably."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from pairs.files import write_atomically
from train.data.construction.asking import ask_all
from train.data.construction.prices import Prices, total
from train.data.construction.stages import Captions, Result, construct
from train.data.construction.triples import Triple
from train.data.construction.vision_model import Usage, VisionModel
from train.errors import DataError


@dataclass(frozen=True)
class Finished:
    """A finished edit, and what the two models were asked for it."""

    result: Result
    writer: Usage
    verifier: Usage


class Construction:
    """A data set under construction in a folder.

    edits.sha256     which edits they are
    results.jsonl    one line for each finished edit, appended as it comes
    pictures/        of the kept ones
    pairs.json       the data set, as `train.data.listed.open_pairs` reads it

    Args:
        triples: the edits; a result belongs to an edit by its number.
        folder: made if missing.
        writer, verifier: as `train.data.construction.stages.construct` takes them.

    Raises:
        DataError: the folder belongs to other edits.
    """

    def __init__(self, triples: Sequence[Triple], folder: Path, *, writer: VisionModel, verifier: VisionModel) -> None:
        self._triples, self._folder, self._writer, self._verifier = triples, folder, writer, verifier
        self._log = folder / "results.jsonl"
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        self._claim()
        self.finished: dict[int, Finished] = dict(self._read())

    def run(self, *, concurrency: int = 8) -> None:
        """Finish all edits that have no result yet, then write pairs.json.

        Raises:
            DataError: an endpoint is gone, or edits are left because it failed now and then; the same call goes on.
        """
        missing = [number for number in range(len(self._triples)) if number not in self.finished]
        with self._log.open("a", encoding="utf-8") as log:

            def keep(number: int, finished: Finished) -> None:
                self.finished[number] = finished
                log.write(json.dumps({"edit": number} | _as_dict(finished)) + "\n")
                log.flush()

            last = ask_all(self._one, missing, keep, name="edits", concurrency=concurrency)
        left = len(self._triples) - len(self.finished)
        self._write_pairs()
        if left:
            raise DataError(
                f"{left} of {len(self._triples)} edits have no result ({last}); give the same command again"
            )

    def report(self, prices: Prices) -> str:
        """Yield by outcome; calls, tokens and dollars, those of earlier calls of the command included."""
        results = [one.result for one in self.finished.values()]
        outcomes = Counter(result.outcome for result in results)
        again = sum(result.outcome == "kept" and result.attempts == 2 for result in results)
        done = max(1, len(results))
        lines = [f"{len(results):,} of {len(self._triples):,} edits done"]
        lines += [f"  {count:,} {name} ({count / done:.0%})" for name, count in outcomes.most_common()]
        lines.append(f"  {again:,} of the kept ones had their captions written twice")
        for name, model in (("writer", self._writer), ("verifier", self._verifier)):
            usage = total(getattr(one, name) for one in self.finished.values())
            lines.append(f"{name} {model.model}: {prices.report(usage)}")
        return "\n".join(lines)

    def _one(self, number: int) -> Finished:
        triple, asked = self._triples[number], (Usage(), Usage())
        try:
            before, after = triple.before.open(), triple.after.open()
        except (OSError, ValueError, SyntaxError):  # Pillow's plugins raise all of these for damaged files
            return Finished(Result("unreadable picture"), *asked)
        writer, verifier = self._writer.counting(asked[0]), self._verifier.counting(asked[1])
        result = construct(before, after, triple.instruction, writer=writer, verifier=verifier)
        if result.outcome == "kept":
            for name, picture in zip(_names(number), (before, after), strict=True):
                _save(picture, self._folder / name)
        return Finished(result, *asked)

    def _claim(self) -> None:
        """Record the edits that the folder belongs to, or refuse others."""
        digest = sha256("\0".join(triple.instruction for triple in self._triples).encode()).hexdigest()
        file = self._folder / "edits.sha256"
        if file.exists() and file.read_text() != digest:
            raise DataError(f"{self._folder} belongs to other edits: choose another folder")
        write_atomically(file, lambda partial: partial.write_text(digest))

    def _read(self) -> list[tuple[int, Finished]]:
        """Results of earlier calls; a line that a kill cut off is dropped."""
        if not self._log.exists():
            return []
        whole, cut, _ = self._log.read_text(encoding="utf-8").rpartition("\n")
        write_atomically(self._log, lambda partial: partial.write_text(whole + cut, encoding="utf-8"))
        found = []
        for line in whole.splitlines():
            row = json.loads(line)
            captions = Captions(**row["captions"]) if row["captions"] else None
            result = Result(row["outcome"], captions, row["attempts"])
            found.append((row["edit"], Finished(result, Usage(**row["writer"]), Usage(**row["verifier"]))))
        return found

    def _write_pairs(self) -> None:
        rows = [
            {"prompt1": result.captions.before, "prompt2": result.captions.after, "image1": one, "image2": two}
            for number, one_edit in sorted(self.finished.items())
            for result, (one, two) in [(one_edit.result, _names(number))]
            if result.outcome == "kept" and result.captions is not None
        ]
        text = json.dumps(rows, indent=1, ensure_ascii=False)
        write_atomically(self._folder / "pairs.json", lambda partial: partial.write_text(text, encoding="utf-8"))


def _names(number: int) -> tuple[str, str]:
    return f"pictures/{number:07d}-1.png", f"pictures/{number:07d}-2.png"


def _save(picture: Image.Image, file: Path) -> None:
    write_atomically(file, lambda partial: picture.save(partial, format="PNG"))


def _as_dict(finished: Finished) -> dict[str, object]:
    result, captions = finished.result, finished.result.captions
    told = {"outcome": result.outcome, "captions": captions and captions.model_dump(), "attempts": result.attempts}
    return told | {"writer": asdict(finished.writer), "verifier": asdict(finished.verifier)}
