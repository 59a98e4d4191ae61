"""How many steps of each variant of a study are equal in time.

    python -m benchmarks.equal_time configs/study/methods.yaml images=imagenette-96 [--minutes 25] [--rounds 7]

Every variant that is trained does a step in turn, on one thread, without workers: reading, views, forward, backward,
optimizer. Prints the median seconds of a step, and the steps that take so many minutes, to two digits.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.paired import in_turn
from pretext.data.batches import batches
from pretext.engine.device import ComputeConfig
from pretext.engine.trainer import Trainer
from pretext.pretrain import find_prior
from pretext.recipe import PretrainSettings, build_network, on_place, open_images
from pretext.settings import settings_from
from pretint.study.cells import CellStore
from pretint.study.expand import expand
from pretint.study.file import read_study


def stepper(settings: PretrainSettings) -> Callable[[], object]:
    """Return a function that does one step of a recipe."""
    place = ComputeConfig(torch.device("cpu"), "fp32", 0)
    images = open_images(settings)
    prior = find_prior(images, settings) if settings.method.kind.colored else None
    network = on_place(build_network(settings, prior, images.classes), settings, place).train()
    trainer = Trainer(network, settings.training, settings.machine, place, settings.seed)
    loader = batches(images.samples(settings), settings.training.batch_size, 0, 2**30, 0)
    return lambda: trainer.step(*next(loader)[:2])


def main() -> None:
    """Time steps in turn, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_time", description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("places", nargs="*", help="PLACE=FOLDER, as of pretint study")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        places = dict(place.split("=", 1) for place in given.places)
        plan = expand(read_study(given.study, places), CellStore(Path(folder)))
    first = {cell.variant: cell.call["settings"] for cell in reversed(plan.cells) if cell.command == "pretrain"}
    steps = {
        variant: stepper(settings_from(PretrainSettings, first[variant], variant))
        for variant in plan.variants
        if variant in first
    }
    for variant, seconds in in_turn(steps, given.rounds).items():
        median = statistics.median(seconds)
        fit = float(f"{60 * given.minutes / median:.2g}")
        print(f"{variant:20} {median:7.3f} s a step ({min(seconds):.3f} to {max(seconds):.3f})  {fit:7,.0f} steps")


if __name__ == "__main__":
    main()
