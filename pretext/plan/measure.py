"""Measurements of a recipe's speed on this machine: the network, the loading of images, and both together."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pretext.data.batches import Batch
from pretext.engine.device import ComputeConfig
from pretext.engine.memory import available_memory, peak_memory
from pretext.engine.trainer import Trainer
from pretext.methods.classifier import Classifier
from pretext.methods.colorizer import Colorizer
from pretext.recipe import PretrainSettings

_LAPS = 5
_TRIAL = 4  # images; batch norm needs more than one
_LONGEST = 6.0  # seconds that a measured step may take
T = TypeVar("T")


class Throughput(NamedTuple):
    """Images per second: the slowest and the fastest of several measurements."""

    low: float
    high: float
    laps: int


class MeasuredStep(NamedTuple):
    """The size of the steps to measure, determined with smaller steps."""

    images: int
    """Images of a measured step: the whole batch, or fewer if the whole batch would take too long."""
    micro_batch: int
    whole: bool
    """Whether a measured step needs as much memory as a step of the run."""
    per_image: float
    """About how many bytes one more image in memory needs."""
    fits: bool
    """Whether there seems to be enough memory for a step of the run."""


def synchronize(place: ComputeConfig) -> None:
    """Wait until the device has finished its work."""
    if place.device.type != "cpu":
        torch.accelerator.synchronize(place.device)


def time_call(job: Callable[[], T], place: ComputeConfig) -> tuple[float, T]:
    """Return how many seconds a job takes, and its result."""
    synchronize(place)
    began = time.perf_counter()
    result = job()
    synchronize(place)
    return time.perf_counter() - began, result


def measure_rate(call: Callable[[], object], images: int, place: ComputeConfig, seconds: float) -> Throughput:
    """Measure the speed of a function that processes ``images`` images per call, for about ``seconds`` seconds.

    The first call does not count: it allocates memory, chooses kernels and starts workers.
    """
    warm, _ = time_call(call, place)
    if warm < seconds / _LAPS:
        _calls_per_second(call, place, seconds / _LAPS)
    laps: list[float] = []
    ends = time.perf_counter() + seconds
    while not laps or time.perf_counter() < ends:
        laps.append(images * _calls_per_second(call, place, seconds / _LAPS))
    return Throughput(min(laps), max(laps), len(laps))


def _calls_per_second(call: Callable[[], object], place: ComputeConfig, seconds: float) -> float:
    """Return calls per second, measured for at least ``seconds`` seconds and at least one call."""
    began, count = time.perf_counter(), 0
    while not count or time.perf_counter() - began < seconds:
        call()
        count += 1
    synchronize(place)
    return count / (time.perf_counter() - began)


def measure_both(source: Iterator[Batch], trainer: Trainer, images: int, seconds: float) -> tuple[Throughput, float]:
    """Measure loading and training at once, and the share of the time in which steps waited for images."""
    waits: list[float] = []
    totals: list[float] = []

    def load_and_train() -> None:
        began = time.perf_counter()
        batch = next(source)
        waits.append(time.perf_counter() - began)
        trainer.step(batch.rgb, batch.labels)
        totals.append(time.perf_counter() - began)

    measured = measure_rate(load_and_train, images, trainer.place, seconds)
    return measured, sum(waits[1:]) / sum(totals[1:])  # the first call waits until the workers have started


def run_trial(network: Colorizer | Classifier, settings: PretrainSettings, place: ComputeConfig) -> MeasuredStep:
    """Determine with two small steps how many images a measured step may have.

    Raises:
        UserError: not even a small step can be computed.
    """
    training = settings.training
    share = training.batch_size
    at_once = training.micro_batch or share
    small = min(_TRIAL, at_once)
    before = _peak_memory(place)
    trainer = build_trainer(network, settings, place, small, small, compiled=False)
    rgb = torch.zeros(small, 3, settings.crop.size, settings.crop.size, dtype=torch.uint8)
    labels = torch.zeros(small, dtype=torch.int64)
    trainer.step(rgb, labels)
    seconds, _ = time_call(lambda: trainer.step(rgb, labels), place)
    lasting = sum(map(count_bytes, (trainer.state()["optimizer"], list(network.parameters()))))
    per_image = max(0, _peak_memory(place) - before - lasting) / small
    fits = per_image * (at_once - small) < available_memory(place.device)
    affordable = max(small, int(_LONGEST / seconds * small))
    if not fits:
        affordable = small
    if affordable >= share:
        return MeasuredStep(share, training.micro_batch, True, per_image, fits)
    if affordable >= at_once:
        return MeasuredStep(affordable // at_once * at_once, training.micro_batch, True, per_image, fits)
    return MeasuredStep(affordable, 0, False, per_image, fits)


def build_trainer(
    network: Colorizer | Classifier,
    settings: PretrainSettings,
    place: ComputeConfig,
    images: int,
    micro_batch: int,
    compiled: bool,
) -> Trainer:
    """Return a trainer of the network with a batch size and micro-batch other than the recipe's."""
    training = dataclasses.replace(settings.training, batch_size=images, micro_batch=micro_batch)
    machine = dataclasses.replace(settings.machine, compile=compiled)
    return Trainer(network, training, machine, place, settings.seed)


def count_bytes(state: object) -> int:
    """Return the size of the tensors in nested lists and dicts, in bytes."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        state = list(state.values())
    return sum(map(count_bytes, state)) if isinstance(state, (list, tuple)) else 0


def _peak_memory(place: ComputeConfig) -> int:
    """Return the peak memory so far on the network's device, in bytes."""
    return int(torch.cuda.max_memory_allocated(place.device)) if place.device.type == "cuda" else peak_memory()
