"""`focusdiff-train`: checkpoints from recipes."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from model.cli import CommandParser, add_model_arguments, run_command
from pairs.judges.settings import add_judge_arguments, judge_settings
from train.ablation.command import add_ablation

if TYPE_CHECKING:
    from train.data.opening import DataSettings


def main() -> None:
    """Entry point of the console script."""
    parser = CommandParser(
        prog="focusdiff-train", description="Train a checkpoint. To resume a stopped run, give the same command again."
    )
    stages = parser.add_subparsers(dest="stage", required=True)

    tiny = stages.add_parser("tiny", help="tiny models from nothing: image tokenizer, text tokenizer, SFT, GRPO")
    tiny.add_argument("--recipe", default="tiny", help="name of a shipped recipe, or a .toml file (default: tiny)")
    tiny.add_argument("--out", type=Path, default=Path("run/tiny"), help="folder of the run (default: run/tiny)")
    tiny.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    tiny.set_defaults(run=train_tiny)

    grpo = stages.add_parser("grpo", help="reinforcement learning from a judge: GRPO, Pair-GRPO and arms between them")
    add_model_arguments(grpo)
    grpo.add_argument(
        "--recipe",
        default="pair_grpo",
        help="pair_grpo, grpo, paper, as_published, or a .toml file (default: pair_grpo)",
    )
    _add_data_arguments(grpo, default="world")
    grpo.add_argument("--seed", type=int, help="in place of the recipe's")
    grpo.add_argument("--steps", type=int, help="in place of the recipe's")
    add_judge_arguments(grpo)
    grpo.add_argument("--slots", type=int, default=64, help="pictures drawn at once, in each process (default: 64)")
    _add_process_arguments(grpo)
    _add_plan_arguments(grpo)
    grpo.add_argument("--out", type=Path, help="folder of the run; needed without --plan")
    grpo.set_defaults(run=train_grpo)

    sft = stages.add_parser("sft", help="supervised fine-tuning on pictures and their prompts")
    add_model_arguments(sft)
    sft.add_argument(
        "--recipe", default="world", help="world, janus_pro, janus_pro_lora, or a .toml file (default: world)"
    )
    _add_data_arguments(sft, default="world")
    sft.add_argument("--seed", type=int, help="in place of the recipe's")
    sft.add_argument("--steps", type=int, help="in place of the recipe's")
    _add_process_arguments(sft)
    _add_plan_arguments(sft)
    sft.add_argument("--out", type=Path, help="folder of the run; needed without --plan")
    sft.set_defaults(run=train_sft)

    construct = stages.add_parser(
        "construct", help="a data set of pairs from edited pictures: filter, caption, verify (as FocusDiff-Data)"
    )
    construct.add_argument(
        "edits", type=Path, help='JSON list of {"before", "after", "instruction"}; pictures are paths'
    )
    construct.add_argument(
        "--writer", required=True, metavar="URL", help="OpenAI-compatible endpoint of a vision model"
    )
    construct.add_argument("--writer-model", required=True, metavar="NAME", help="filters and captions")
    construct.add_argument("--verifier", metavar="URL", help="endpoint of the verifying model (default: the writer's)")
    construct.add_argument("--verifier-model", required=True, metavar="NAME", help="checks the captions; another model")
    _add_asking_arguments(construct, "edits")
    construct.add_argument("--out", type=Path, required=True, help="folder of the data set")
    construct.set_defaults(run=construct_pairs)

    questions = stages.add_parser(
        "questions", help="decompose long prompts into yes/no questions, for a judge that is a vision-language model"
    )
    _add_data_arguments(questions)
    questions.add_argument("--writer", required=True, metavar="URL", help="OpenAI-compatible endpoint of a model")
    questions.add_argument("--writer-model", required=True, metavar="NAME", help="writes the questions")
    _add_asking_arguments(questions, "prompts")
    questions.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file of the questions")
    questions.set_defaults(run=write_questions)

    data = stages.add_parser("data", help="check a data set: which rows can be trained on, and why the others cannot")
    add_model_arguments(data, device="cpu")
    _add_data_arguments(data)
    data.set_defaults(run=check_data)

    add_ablation(stages)

    arguments = parser.parse_args()
    run_command(lambda: _check_and_run(arguments))


def _add_process_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parallel",
        choices=("none", "ddp", "fsdp"),
        default="none",
        help="processes started by torchrun: ddp gives each all weights, fsdp a part of them (default: none)",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="refuse to train in any other number of processes")


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("plan")
    group.add_argument(
        "--plan",
        action="store_true",
        help="print the memory that each GPU needs, by part, and train nothing; of MODEL only config.json is read; "
        "exit code 1 if it is more than --gpu-memory",
    )
    group.add_argument("--gpu-memory", type=float, default=80.0, metavar="GIB", help="of a GPU (default: 80)")
    group.add_argument(
        "--prompt-tokens", type=int, metavar="N", help="longest prompt with its frame (default: the model's limit)"
    )


def _add_asking_arguments(parser: argparse.ArgumentParser, items: str) -> None:
    parser.add_argument("--key", default="none", help="API key of the models' endpoints")
    parser.add_argument("--concurrency", type=int, default=8, help=f"{items} worked on at once (default: 8)")
    parser.add_argument(
        "--prices", type=float, nargs=2, default=(0.0, 0.0), metavar="USD", help="of a million prompt and answer tokens"
    )


def _add_data_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    known = "a .json list, a .txt file of prompts, a .parquet file or a folder of them"
    if default:
        parser.add_argument(
            "--data",
            default=default,
            metavar="PATH",
            help=f"{known}; or world, the procedural one (default: {default})",
        )
    else:
        parser.add_argument("data", metavar="PATH", help=known)
    parser.add_argument(
        "--prompt-columns", nargs="+", default=[], metavar="NAME", help="of Parquet files (default: recognised)"
    )
    parser.add_argument(
        "--image-columns", nargs="+", default=[], metavar="NAME", help="of Parquet files (default: recognised)"
    )


def _check_and_run(arguments: argparse.Namespace) -> None:
    for package in ("matplotlib", "tensorboard"):
        if find_spec(package) is None:
            raise ValueError(f"training needs {package}: run pip install 'focusdiff[train]', or make train")
    if arguments.stage in ("grpo", "sft") and not arguments.plan and arguments.out is None:
        raise ValueError("--out is missing: name a folder for the run, or give --plan")
    arguments.run(arguments)


def train_tiny(arguments: argparse.Namespace) -> None:
    """Check the recipe, then train."""
    from train.tiny.recipe import load_recipe

    recipe = load_recipe(arguments.recipe)

    from model.device import choose_device
    from train.tiny.pipeline import train_tiny

    for name, folder in train_tiny(recipe, arguments.out, choose_device(arguments.device)).items():
        print(f"{name}: {folder}")


def _data_settings(arguments: argparse.Namespace) -> "DataSettings":
    from train.data.opening import DataSettings

    return DataSettings(arguments.data, tuple(arguments.prompt_columns), tuple(arguments.image_columns))


def train_sft(arguments: argparse.Namespace) -> None:
    """Check the recipe, then load the model and train it, or print what memory that needs."""
    from train.sft.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, seed=arguments.seed, steps=arguments.steps)
    if arguments.plan:
        from train.memory.report import report
        from train.memory.sft import plan_sft

        report(arguments, lambda janus, ranks, device: plan_sft(janus, recipe, ranks=ranks, device=device))
        return

    from model.checkpoints.load import load_from
    from train.ranks import join, leave
    from train.sft.run import train

    ranks = join(arguments.parallel, processes=arguments.processes)
    train(load_from(arguments), recipe, arguments.out, data=_data_settings(arguments), ranks=ranks)
    leave()
    if ranks.first:
        print(f"finished: {arguments.out / 'latest'}")


def check_data(arguments: argparse.Namespace) -> None:
    """Print the report of a data set's validation."""
    from model.checkpoints.load import load_from
    from train.data.listed import open_pairs

    janus = load_from(arguments)
    _, report = open_pairs(
        Path(arguments.data),
        janus,
        prompt_columns=arguments.prompt_columns,
        image_columns=arguments.image_columns,
    )
    print(report)


def construct_pairs(arguments: argparse.Namespace) -> None:
    """Construct the data set, then print the report, also if edits are left."""
    _check_concurrency(arguments)
    from train.data.construction.construction import Construction
    from train.data.construction.prices import Prices
    from train.data.construction.triples import read_triples
    from train.data.construction.vision_model import VisionModel

    triples = read_triples(arguments.edits)
    writer = VisionModel(arguments.writer, arguments.writer_model, key=arguments.key)
    verifier = VisionModel(arguments.verifier or arguments.writer, arguments.verifier_model, key=arguments.key)
    construction = Construction(triples, arguments.out, writer=writer, verifier=verifier)
    try:
        construction.run(concurrency=arguments.concurrency)
    finally:
        print(construction.report(Prices(*arguments.prices)))


def write_questions(arguments: argparse.Namespace) -> None:
    """Write the questions, then print the report, also if prompts are left."""
    _check_concurrency(arguments)
    from train.data.construction.prices import Prices
    from train.data.construction.questions import QuestionFile
    from train.data.construction.vision_model import VisionModel
    from train.data.listed import read_rows

    rows, _ = read_rows(
        Path(arguments.data), prompt_columns=arguments.prompt_columns, image_columns=arguments.image_columns
    )
    prompts = [prompt for row in rows for prompt in row.prompts if isinstance(prompt, str)]
    writer = VisionModel(arguments.writer, arguments.writer_model, key=arguments.key)
    file = QuestionFile(arguments.out)
    try:
        file.write(prompts, writer, concurrency=arguments.concurrency)
    finally:
        print(file.report(writer, Prices(*arguments.prices)))


def _check_concurrency(arguments: argparse.Namespace) -> None:
    if arguments.concurrency < 1:
        raise ValueError(f"--concurrency must be at least 1, not {arguments.concurrency}")


def train_grpo(arguments: argparse.Namespace) -> None:
    """Check the recipe, then load the model and train it, or print what memory that needs."""
    from train.grpo.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, seed=arguments.seed, steps=arguments.steps)
    if arguments.plan:
        from train.memory.grpo import plan_grpo
        from train.memory.report import report

        slots = arguments.slots
        report(
            arguments, lambda janus, ranks, device: plan_grpo(janus, recipe, slots=slots, ranks=ranks, device=device)
        )
        return
    judge = judge_settings(arguments)

    from model.checkpoints.load import load_from
    from train.grpo.run import train
    from train.ranks import join, leave

    ranks = join(arguments.parallel, processes=arguments.processes)
    train(
        load_from(arguments),
        recipe,
        arguments.out,
        data=_data_settings(arguments),
        judge=judge,
        slots=arguments.slots,
        ranks=ranks,
    )
    leave()
    if ranks.first:
        print(f"finished: {arguments.out / 'latest'}")


if __name__ == "__main__":
    main()
