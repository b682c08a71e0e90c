"""A folder of pictures scored, one line of results for each: a stopped run goes on where it was."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bench.detection.layout import find_samples
from bench.detection.metadata import Metadata
from bench.detection.results import Result, append_results, resume_results
from bench.detection.scorer import Scorer


def score_folder(
    folder: Path,
    results: Path,
    scorer: Scorer,
    *,
    per_prompt: int = 4,
    prompts: Sequence[Metadata] | None = None,
) -> list[Result]:
    """Score a folder in GenEval's layout, except for pictures that `results` already has.

    Results are appended batch by batch. Batches are the same whatever was done before, so a run that was killed and
    resumed ends with the same bytes as one that was not.

    Args:
        folder: in GenEval's layout.
        results: JSON lines file, in the official schema; created if there is none.
        scorer: judges the pictures.
        per_prompt: pictures that each prompt must have.
        prompts: that the folder must have, in order; None accepts any.

    Returns:
        Results of all pictures, in order.

    Raises:
        GenEvalError: a picture, prompt or folder is missing or damaged, or `results` belongs to another scorer or
            folder. What was judged before stays in the file.
        OSError: `results` cannot be written.
    """
    samples = find_samples(folder, per_prompt=per_prompt, prompts=prompts)
    identity = scorer.identity
    earlier = resume_results(results, samples, identity)
    done = {result.place: result for result in earlier}
    results.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(samples), initial=len(done), desc="judged", disable=None) as bar:
        for start in range(0, len(samples), scorer.batch):
            batch = samples[start : start + scorer.batch]
            if all(sample.place in done for sample in batch):
                continue
            judged = scorer([sample.picture() for sample in batch], [sample.metadata for sample in batch])
            fresh = [
                Result.of(sample, one, identity)
                for sample, one in zip(batch, judged, strict=True)
                if sample.place not in done
            ]
            append_results(results, fresh)
            done.update((result.place, result) for result in fresh)
            bar.update(len(fresh))
    return [done[sample.place] for sample in samples]
