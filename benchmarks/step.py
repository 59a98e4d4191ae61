"""The whole training step against the bare network.

The bare network is the same network and head, with the same optimizer, gradient clipping and precision, on L that
lies on the device already, under a loss that costs one pass over the output: the mean of its squares.
"""

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.images import shards_of
from benchmarks.paired import Row, seconds, times_as_fast
from pretext.color import rgb_to_lightness
from pretext.data import open_dataset
from pretext.data.batches import TrainDataset, batches
from pretext.engine.device import ComputeConfig, choose_compute
from pretext.engine.trainer import MachineSettings, Trainer
from pretext.methods.colorization import Colorizer
from pretext.recipe import PretrainSettings, build_colorizer, on_place
from pretext.settings import settings_from

QUEUED = 4  # batches that a worker prepares ahead
_CPU = (("tiny", 64, 8, 64), ("resnet18", 112, 16, 16))  # backbone, crop, stride of the target, batch
_GPU = (("tiny", 64, 8, 256), ("resnet18", 224, 8, 256), ("vgg", 176, 4, 40))


class _Bare(nn.Module):
    """A colorizer that trains toward nothing, on L that was computed once."""

    def __init__(self, colorizer: Colorizer, lightness: Tensor) -> None:
        super().__init__()
        self.colorizer = colorizer
        self.lightness = lightness

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        predicted: Tensor = self.colorizer(self.lightness)
        return predicted.square().mean()


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Per network and precision: without the data path, with decoded images kept (machine.cache), with all of it."""
    with tempfile.TemporaryDirectory() as scratch:
        shards = shards_of(Path(scratch), 1000, 256)
        for name, size, stride, batch in _GPU if device.type == "cuda" else _CPU:
            for precision in ("fp32", "bf16"):
                if precision == "bf16" and choose_compute(str(device)).precision != "bf16":
                    continue
                settings = settings_from(PretrainSettings, {
                    "data": {"source": str(shards)}, "crop": {"size": size}, "backbone": {"name": name},
                    "objective": {"stride": stride}, "training": {"batch_size": batch, "precision": precision},
                    "machine": {"device": str(device), "cache": 0},
                }, "step.py")  # fmt: skip
                yield from _measured(settings, rounds)


def _measured(settings: PretrainSettings, rounds: int) -> Iterator[Row]:
    place = choose_compute(settings.machine.device, settings.training.precision, settings.machine.workers)
    batch, source = settings.training.batch_size, open_dataset(str(settings.data.source))
    samples = TrainDataset([source], settings.crop, settings.seed)
    colorizer = on_place(build_colorizer(settings, torch.full((313,), 1 / 313, dtype=torch.float64)), settings, place)
    rgb, labels, *_ = next(batches(samples, batch, 0, 1, 0))
    rgb, labels = rgb.to(place.device), labels.to(place.device)
    bare = _trainer(_Bare(copy.deepcopy(colorizer), rgb_to_lightness(rgb)), settings, place)
    ours = _trainer(colorizer, settings, place)
    setting = f"{settings.backbone.name}, {settings.crop.size} px, batch {batch}, {place.precision}"

    kept = TrainDataset([source], settings.crop, settings.seed, cache_bytes=MachineSettings().cache * 2**20)
    with (
        closing(batches(samples, batch, 0, 2**30, place.workers)) as source_of_batches,
        closing(batches(kept, batch, 0, 2**30, place.workers)) as source_of_kept,
    ):
        for _ in range(-(-len(source) // batch) + QUEUED * place.workers):  # an epoch: every image is decoded
            next(source_of_kept)
        steps: dict[str, Callable[[], object]] = {
            "bare": lambda: bare.step(rgb, labels),
            "memory": lambda: ours.step(rgb, labels),
            "whole": lambda: ours.step(*next(source_of_batches)[:2]),
            "kept": lambda: ours.step(*next(source_of_kept)[:2]),
        }
        for step in steps.values():
            for _ in range(3):
                step()
        times = max(3, round(1.5 / seconds(steps["bare"], place.device, 3)))
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds):
            for name in (*steps,) if number % 2 else (*reversed(steps),):
                if name in ("whole", "kept"):  # what was prepared while others were timed is not given away
                    for _ in range(QUEUED * place.workers + 1):
                        steps[name]()
                else:
                    until_idle(place, batch)
                taken[name].append(seconds(steps[name], place.device, times))
    yield times_as_fast("step, images in memory", setting, "bare network", taken["memory"], taken["bare"], batch)
    yield times_as_fast(
        "the whole step, from epoch 2", setting, "bare network", taken["kept"], taken["bare"], batch, 0.95
    )
    remark = f"{place.workers} worker{'s' if place.workers != 1 else ''}"
    if place.device.type == "cpu" and torch.get_num_threads() == len(os.sched_getaffinity(0)):
        # Decoding takes cores from the network: as long as it decodes, no data path could give more than this.
        with closing(batches(samples, batch, 0, 2**30, 0)) as here:
            reading = seconds(lambda: next(here), place.device, 4, cpu=True)
        network = seconds(steps["bare"], place.device, 4, cpu=True)
        remark += f"; at most about {network / (network + reading):.2f}, as decoding shares the cores"
    row = times_as_fast("the whole step, epoch 1", setting, "bare network", taken["whole"], taken["bare"], batch, 0.95)
    yield row._replace(remark=remark)


def until_idle(place: ComputeConfig, batch: int) -> None:
    """Workers prepare a few batches ahead: they must have done so before anything else is timed."""
    if place.workers:
        time.sleep(min(3.0, 0.3 + QUEUED * batch / 400))


def _trainer(network: nn.Module, settings: PretrainSettings, place: ComputeConfig) -> Trainer:
    return Trainer(network.train(), settings.training, settings.machine, place, settings.seed)
