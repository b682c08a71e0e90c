"""The training loop of GRPO.

plan → draw → judge → advantages → credit → micro-batches → update → refresh
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from model.janus import Janus
from pairs.files import write_atomically
from pairs.judges.judge import Judge
from pairs.judges.settings import AT_ONCE
from serve.engine.engine import Engine
from train.curve import Curve
from train.data.codes import CodeCache
from train.data.order import shuffled
from train.data.pairs import PairSource
from train.errors import TrainingError
from train.grpo.metrics import Means, policy_metrics, sample_metrics
from train.grpo.objective.advantage import Advantages
from train.grpo.objective.objective import Objective
from train.grpo.recipe import GRPORecipe
from train.grpo.remedies import remedy
from train.grpo.rollout.rollout import Rollout
from train.grpo.rollout.samples import Samples
from train.grpo.sheets import credit_sheet, prompt_sheet
from train.grpo.step_samples import StepSamples, advantages_of
from train.grpo.stopwatch import Stopwatch
from train.ranks import ALONE, Ranks
from train.run_folder import RunFolder
from train.schedule import scheduled
from train.tensorboard import TensorBoard
from train.weights.opening import open_weights
from train.weights.sharded import whole

_SHEET_SEED = 1_000_003  # decides the pairs on the contact sheets
_SHEET_PAIRS = 6
_SHEET_PICTURES = 3  # of each prompt
_DRAWN = ("reward", "s_a", "s_g", "live groups", "kl", "entropy", "gradient norm", "ground truth logprob")
Progress = Callable[[int, dict[str, float]], object]


class Trainer:
    """Trains a model in place, and writes checkpoints from which the same call resumes.

    Args:
        janus: the first policy; its weights change in place.
        source: pairs of prompts.
        judge: gives the rewards.
        recipe: everything else that decides the run.
        out: folder of the run.
        slots: pictures drawn at once.
        ranks: the processes of the run. Each draws and judges its share of the pairs, and trains on its share of the
            samples; the first one writes files.
        judged_at_once: pictures per call of the judge.

    Raises:
        TrainingError: there are more processes than pairs in a step.
    """

    def __init__(
        self,
        janus: Janus,
        source: PairSource,
        judge: Judge,
        recipe: GRPORecipe,
        out: Path,
        *,
        slots: int = 64,
        ranks: Ranks = ALONE,
        judged_at_once: int = AT_ONCE,
    ) -> None:
        recipe.check_processes(ranks.count)
        self._janus, self._source, self._recipe, self._ranks = janus, source, recipe, ranks
        self._weights = open_weights(janus, ranks, recipe.weights)
        self._engine = Engine(janus, slots=slots, logprobs=True)
        self._folder = RunFolder(out, keep=recipe.output.keep, ranks=ranks)
        self._codes = CodeCache(out / "codes.sqlite", janus, self._engine.image_tokenizer)
        self._rollout = Rollout(self._engine, source, self._codes, judge, recipe, judged_at_once=judged_at_once)
        self._samples = StepSamples(self._rollout, source, recipe, self._folder, ranks)
        self._reference = self._weights.reference() if recipe.loss.beta else None
        self._objective = Objective(janus, self._weights, recipe, self._reference, ranks)
        self._optimizer = torch.optim.AdamW(
            self._weights.parameters.values(),
            betas=recipe.update.betas,
            eps=recipe.update.epsilon,
            weight_decay=recipe.update.weight_decay,
            fused=True,
        )
        self._curve = Curve(out, drawn=_DRAWN)
        self._rate = 1.0  # factor of the learning rate that the remedies set
        self._remedied = 0  # step after the latest remedy

    def run(self, *, on_step: Progress = lambda step, row: None) -> None:
        """Train to the end of the recipe.

        Args:
            on_step: called after each step with the number of steps done and the step's values.

        Raises:
            TrainingError: training cannot go on; the last good checkpoint is kept, and the message names it.
            CheckpointError: a checkpoint cannot be written.
        """
        start = self._resume()
        output = self._recipe.output
        self._board = TensorBoard(self._folder.folder / "tensorboard", start=start) if self._ranks.first else None
        try:
            if start == 0 and output.grid_every:
                self._ranks.at_first(partial(self._draw_sheet, 0))
            for step in range(start, self._recipe.steps):
                row = self._step(step)
                last = step + 1 == self._recipe.steps
                if last or (step + 1) % output.save_every == 0:
                    self._save(step + 1)
                if self._sheet_due(step):
                    self._ranks.at_first(partial(self._draw_sheet, step + 1))
                if self._board is not None:
                    self._board.values(row)
                on_step(step + 1, row)
        except TrainingError:
            if self._ranks.first:
                self._curve.write()  # to the stop: it may show why
            raise
        finally:
            if self._board is not None:
                self._board.close()
            self._samples.close()
            self._rollout.close()
            self._codes.close()

    def _step(self, step: int) -> dict[str, float]:
        """Train on the samples of one step; returns its values."""
        watch = Stopwatch()
        with watch.part("draw and judge"):
            samples = self._samples.of(step)
            advantages = advantages_of(samples, self._recipe)
        with watch.part("update"):
            values = self._update(step, samples, advantages)
            self._draw_credit(step, samples, advantages)
        with watch.part("refresh"):
            self._refresh()
        values = sample_metrics(samples, advantages) | values | watch.seconds
        values["samples per second"] = len(samples.codes) / sum(watch.seconds.values())
        values["core seconds"] = watch.core_seconds
        row = self._curve.add(step + 1, values)
        self._remedy(step)
        return row

    def _update(self, step: int, samples: Samples, advantages: Advantages) -> dict[str, float]:
        """Update the weights; returns the update's values."""
        recipe = self._recipe.update
        rate = self._rate * scheduled(recipe.learning_rate, (step + 1) / self._recipe.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        old, means = self._objective.old_policy(samples), Means()
        norms = []
        for _ in range(recipe.updates_per_rollout):
            self._optimizer.zero_grad()
            self._objective.backward(samples, advantages, old, means)
            norm = float(whole(nn.utils.clip_grad_norm_(self._weights.parameters.values(), recipe.clip_norm)))
            if norm != norm or norm == float("inf"):
                raise self._folder.stopped(step, f"the gradient's norm is {norm}")
            self._optimizer.step()
            norms.append(norm)
        values = {"learning rate": rate, "gradient norm": sum(norms) / len(norms)}
        means, logprobs = means.gather(self._ranks), old.gather(self._ranks)
        return values | means.result() | policy_metrics(samples, logprobs)

    def _refresh(self) -> None:
        """Let the engine draw with the present weights."""
        self._weights.publish()
        self._engine.load_weights(self._janus.network)

    def _remedy(self, step: int) -> None:
        """Apply the remedy that the rewards call for, if any."""
        rewards = [row["reward"] for row in self._curve.rows if row["step"] > self._remedied]
        found = remedy(rewards, self._recipe.remedies)
        if found is None:
            return
        self._remedied = step + 1
        if found.action == "lower the rate":
            self._rate *= self._recipe.remedies.rate_factor
        elif self._reference is not None:
            self._reference.refresh()
        self._curve.rows[-1]["remedy"] = found.fall

    def _resume(self) -> int:
        """Go back to the newest checkpoint, if there is one; returns the number of steps done."""
        step = self._folder.recover()
        if step:
            weights, state = self._folder.load(step)
            if self._weights.sharded:
                shards = self._shards()
                self._folder.load_shards(step, shards)
                set_optimizer_state_dict(self._weights.logits, self._optimizer, shards["optimizer"])
            else:
                self._weights.load_state_dict(state["weights"], weights)
                self._optimizer.load_state_dict(state["optimizer"])
                if self._reference is not None:
                    self._reference.load_state_dict(state["reference"])
            self._refresh()
            self._curve.rows = state["rows"]
            self._rate, self._remedied = state["rate"], state["remedied"]
        return step

    def _draw_sheet(self, step: int) -> None:
        """Draw a contact sheet of pairs, with the same prompts and seeds at every step."""
        pairs = [
            self._source.prompts(shuffled(place, len(self._source), seed=_SHEET_SEED)) for place in range(_SHEET_PAIRS)
        ]
        sheet = prompt_sheet(self._engine, pairs, range(_SHEET_PICTURES), self._recipe.rollout.params)
        write_atomically(self._folder.grid(step), lambda partial: sheet.save(partial, format="PNG"))
        assert self._board is not None
        self._board.picture("pictures", sheet, step)
        self._curve.draw()

    def _draw_credit(self, step: int, samples: Samples, advantages: Advantages) -> None:
        """Draw where the credit of the step's samples went, if a sheet is due and there is anything to see."""
        credit = self._objective.credit
        if self._board is None or not credit or self._recipe.credit.method == "uniform" or not self._sheet_due(step):
            return
        sheet = credit_sheet(self._engine, samples, advantages.values, credit)
        file = self._folder.credit(step + 1)
        write_atomically(file, lambda partial: sheet.save(partial, format="PNG"))
        self._board.picture("credit", sheet, step + 1)

    def _sheet_due(self, step: int) -> bool:
        every = self._recipe.output.grid_every
        return every > 0 and (step + 1 == self._recipe.steps or (step + 1) % every == 0)

    def _save(self, step: int) -> None:
        """Write the checkpoint after `step` steps, and the curve."""
        self._samples.store_ahead(step)
        state = {"rows": self._curve.rows, "rate": self._rate, "remedied": self._remedied}
        shards = self._shards() if self._weights.sharded else None
        if shards is None:
            state["weights"] = self._weights.state_dict()
            state["optimizer"] = self._optimizer.state_dict()
            state["reference"] = self._reference.state_dict() if self._reference is not None else None
        self._folder.save(step, self._janus, state, shards)
        self._ranks.at_first(self._curve.write)

    def _shards(self) -> dict[str, Any]:
        """The state of which this process has a part: weights, optimizer, reference."""
        return {
            "weights": self._weights.state_dict(),
            "optimizer": get_optimizer_state_dict(self._weights.logits, self._optimizer),
            "reference": self._reference.state_dict() if self._reference is not None else {},
        }
