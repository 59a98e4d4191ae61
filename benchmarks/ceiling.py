"""The training steps of whole recipes against the rate at which the machine multiplies matrices.

Network, head, objective, optimizer and crops are those of configs/pretext; only the precision (bf16 where the device
has it, also where a paper's recipe asks for fp32), first weights (random) and, on a CPU, the batch differ. A step's
operations are counted as ``operations`` says; the machine's rate is measured in every round, next to the step.
Images in memory lie in the device's; the whole data path reads shards of JPEGs, as a run of an epoch 1 does.
"""

import copy
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.images import shards_of
from benchmarks.matrix_rate import fastest, over
from benchmarks.matrix_rate import rows as matrix_rows
from benchmarks.operations import operations
from benchmarks.paired import Row, seconds, settle, skipped, spread
from benchmarks.step import QUEUED, until_idle
from pretext.data import open_dataset
from pretext.data.batches import Batch, TrainDataset, batches
from pretext.engine.device import ComputeConfig, choose_compute
from pretext.engine.trainer import Trainer
from pretext.errors import UserError
from pretext.recipe import PretrainSettings, build_colorizer, on_place
from pretext.settings import settings_file

RECIPES = {"laptop": 64, "paper_alexnet": 8, "paper_vgg": 4, "vit_small": 8, "resnet50": 8}
"""Images that a step on a CPU takes; one on a GPU takes the recipe's."""

_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "pretext"
_SHARE, _BUSY = 0.5, 0.97  # wanted on a GPU: of the machine's rate; of the time, not waiting for images
_LASTING = 1.0  # seconds that a round of steps takes, about
_LONGEST = 2.0  # seconds in which what workers prepared ahead is used up


class _Times(NamedTuple):
    """Of the rounds."""

    product: list[float]
    """The machine's rate, operations per second."""
    memory: list[float]
    """Seconds of a step on images in memory."""
    whole: list[float]
    """Seconds of a step and what it takes to have its images."""
    waiting: list[float]
    """The share of that in which the device had nothing to do."""


def rows(device: torch.device, rounds: int, recipes: Sequence[str] = tuple(RECIPES)) -> Iterator[Row]:
    """The machine's rate; for each recipe a step's share of it, the time to the end, and the waiting.

    On a GPU each once more through torch.compile. A recipe that cannot be computed here is a row that says why.
    """
    yield from matrix_rows(device, rounds)
    with tempfile.TemporaryDirectory() as scratch:
        shards = shards_of(Path(scratch), 1000, 256)
        for recipe in recipes:
            settings = _settings(recipe, shards, device)
            for compiled in (False, True) if device.type == "cuda" else (False,):
                try:
                    yield from measured(recipe, settings, compiled, rounds)
                except (UserError, torch.OutOfMemoryError) as error:
                    how = " compiled" if compiled else ""
                    yield skipped(f"{recipe}{how}", " ".join(str(error).split())[:200])


def _settings(recipe: str, shards: Path, device: torch.device) -> PretrainSettings:
    asked = settings_file(PretrainSettings, _FOLDER / f"{recipe}.yaml")
    training = dataclasses.replace(asked.training, precision=choose_compute(str(device)).precision)
    if device.type == "cpu":
        training = dataclasses.replace(training, batch_size=RECIPES[recipe], micro_batch=0)
    return dataclasses.replace(
        asked,
        data=dataclasses.replace(asked.data, source=str(shards)),
        backbone=dataclasses.replace(asked.backbone, init="random"),
        training=training,
        machine=dataclasses.replace(asked.machine, device=str(device)),
    )


def measured(recipe: str, settings: PretrainSettings, compiled: bool, rounds: int) -> Iterator[Row]:
    """The three rows of a recipe, of which ``settings`` say what is computed here.

    Raises:
        UserError: a step cannot be computed.
    """
    training, crop = settings.training, settings.crop
    place = choose_compute(settings.machine.device, training.precision, settings.machine.workers)
    samples = TrainDataset([open_dataset(str(settings.data.source))], crop, settings.seed)
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    colorizer = on_place(build_colorizer(settings, prior), settings, place).train()
    machine = dataclasses.replace(settings.machine, compile=compiled)
    if compiled:
        torch.compiler.reset()  # or else networks count as changes of one
    on_gpu, batch = place.device.type == "cuda", training.batch_size
    with closing(
        batches(samples, batch, 0, 2**30, place.workers, pinned=on_gpu, worker_start=machine.worker_start)
    ) as source:
        one = next(source)
        few = min(batch, 2)  # the count grows with the batch
        each = operations(
            copy.deepcopy(colorizer), one.rgb[:few].to(place.device), one.labels[:few].to(place.device)
        )  # fmt: skip
        taken = _timed(Trainer(colorizer, training, machine, place, settings.seed), source, one, rounds)

    asked = settings_file(PretrainSettings, _FOLDER / f"{recipe}.yaml").training
    setting = f"{recipe}, {crop.size} px, batch {batch}, {place.precision}{', compiled' if compiled else ''}"
    per_second = spread([batch / whole for whole in taken.whole]).median
    fewer = f"; the recipe's batch is {asked.batch_size}" if batch != asked.batch_size else ""
    reached, rate, share = over(
        [each * batch / step / 1e12 for step in taken.memory], [r / 1e12 for r in taken.product]
    )
    yield Row(
        "step, images in memory", setting, "measured matrix rate", "TFLOP/s", reached, rate, share,
        _SHARE if on_gpu else None,
        f"{each / 1e9:.3g} GFLOP an image, elementwise work not counted{fewer}",
    )  # fmt: skip
    images = asked.steps * asked.batch_size
    hours, least = ([images / batch * step / 3600 for step in steps] for steps in (taken.whole, taken.memory))
    yield Row(
        "training to the end", setting, "images in memory", "h", spread(hours), spread(least),
        spread([less / more for less, more in zip(least, hours, strict=True)]),
        remark=f"{asked.steps:,} steps of {asked.batch_size}; {per_second:,.4g} images/s; {place.workers} "
        f"worker{'s' if place.workers != 1 else ''}",
    )  # fmt: skip
    busy = [1 - share for share in taken.waiting]
    yield Row(
        "the whole step", setting, "itself without waiting for images", "ms", spread([1e3 * t for t in taken.whole]),
        spread([1e3 * share * t for share, t in zip(busy, taken.whole, strict=True)]), spread(busy),
        _BUSY if on_gpu else None, f"{1 - spread(busy).median:.1%} waiting",
    )  # fmt: skip


def _timed(trainer: Trainer, source: Iterator[Batch], one: Batch, rounds: int) -> _Times:
    place = trainer.place
    rgb, labels = one.rgb.to(place.device), one.labels.to(place.device)

    def memory() -> None:
        trainer.step(rgb, labels)

    def whole() -> None:
        trainer.step(*next(source)[:2])

    for step in (memory, memory, whole):  # compiled, and kernels chosen
        step()
    times = max(1, round(_LASTING / seconds(memory, place.device)))
    product = fastest(place.precision, place.device)
    taken = _Times([], [], [], [])
    for _ in range(rounds):
        if place.device.type == "cpu":
            until_idle(place, trainer.training.batch_size)  # or else workers take what is measured
        before = product.rate(place.device)
        taken.memory.append(seconds(memory, place.device, times))
        taken.product.append((before + product.rate(place.device)) / 2)
        ends = time.perf_counter() + _LONGEST
        for _ in range(QUEUED * place.workers + 1):  # what was prepared meanwhile is not given away
            seconds(whole, place.device)
            if time.perf_counter() > ends:
                break
        taken.whole.append(seconds(whole, place.device, times))
        taken.waiting.append(_waiting(trainer, source, times, place))
    return taken


def _waiting(trainer: Trainer, source: Iterator[Batch], times: int, place: ComputeConfig) -> float:
    """The share of its time that a step waits for its images.

    Every step is waited for: while a GPU still computes the last one, no time is lost by having no images.
    """
    waited, started = 0.0, time.perf_counter()
    for _ in range(times):
        began = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - began
        trainer.step(batch.rgb, batch.labels)
        settle(place.device)
    return waited / (time.perf_counter() - started)
