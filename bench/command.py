"""`focusdiff-bench`: benchmarks of a model, how reliable the judges are, and speed."""

from bench.commands.benchmarks import add_benchmarks
from bench.commands.cuda import add_cuda
from bench.commands.reports import add_reports
from bench.commands.speed import add_speed
from bench.commands.world import add_world
from model.cli import CommandParser, run_command


def main() -> None:
    """Entry point of the console script."""
    parser = CommandParser(prog="focusdiff-bench", description=__doc__.split("`: ")[1])
    benches = parser.add_subparsers(dest="bench", required=True)
    add_benchmarks(benches)
    add_reports(benches)
    add_world(benches)
    add_speed(benches)
    add_cuda(benches)
    arguments = parser.parse_args()
    run_command(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
