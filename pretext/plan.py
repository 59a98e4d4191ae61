"""The job that estimates the memory, speed, time and disk space of a pretraining before it starts."""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from pretext.data import open_labeled
from pretext.data.batches import Batch, TrainDataset, batches
from pretext.disk_usage import (
    DiskUsage,
    count_due,
    estimates_prior,
    placeholder_prior,
    pretrain_disk,
)
from pretext.engine.checkpoint import checkpoint_bytes
from pretext.engine.device import ComputeConfig, choose_compute
from pretext.engine.memory import (
    available_memory,
    children_memory,
    device_peak_memory,
    explain_memory_shortage,
    peak_memory,
    reset_peak_memory,
)
from pretext.engine.progress import progress
from pretext.engine.trainer import Trainer
from pretext.methods.contract import Method, repeat_views
from pretext.pretrain import checkpoint_extra, measure_health
from pretext.recipe import PretrainSettings, build_network, first_crops, load_held_out, on_place, open_images

_SECONDS = 6.0  # for each of: the network only, data loading only, both
_VALIDATED = 32
_SHOWN = 12  # images on a sample sheet
_FIRST = 32  # crops that are read to measure the time per crop
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


@dataclass(frozen=True)
class Plan:
    """The needs of a pretraining on this machine, in bytes, seconds and images: measured, or exact where noted."""

    place: ComputeConfig
    settings: PretrainSettings
    images: int
    """Number of training images; exact."""
    held: int
    """Number of held-out images; exact."""
    parameters: int
    weights: int
    """Bytes of the weights and of batch norm's statistics. These and the next three are exact."""
    gradients: int
    optimizer: int
    average: int
    network: Throughput
    """Whole steps on images in memory, without data loading."""
    data: Throughput
    """Data loading without training and without a cache of decoded images."""
    both: Throughput
    """Loading and training together."""
    waiting: float
    """Share of the time in which steps wait for images."""
    first_step: float
    before: float
    """Seconds until the first step."""
    validation: float
    """Seconds for one validation on held-out images."""
    save: float
    """Seconds to serialize a checkpoint, without the time to write it to disk."""
    host: int
    """Peak memory of the process, Python and torch included."""
    device: int | None
    """Peak memory of torch's tensors on a GPU; None without a GPU."""
    workers: int
    """Memory of all workers together."""
    disk: DiskUsage
    notes: tuple[str, ...]
    """Remarks on these numbers."""

    @property
    def samples(self) -> int:
        """The number of samples of the training: steps times batch size."""
        return self.settings.training.steps * self.settings.training.batch_size

    @property
    def validations(self) -> int:
        """The number of validations: before the first step, then every so many steps and at the end."""
        return count_due(self.settings.training.steps, self.settings.machine.evaluate_every)

    @property
    def saves(self) -> int:
        """The number of checkpoints that are written."""
        return count_due(self.settings.training.steps, self.settings.machine.checkpoint_every)

    @property
    def seconds(self) -> tuple[float, float]:
        """The whole time: at the fastest measured speed, and at the slowest."""
        overhead = self.before + self.validations * self.validation + self.saves * self.save
        return self.samples / self.both.high + overhead, self.samples / self.both.low + overhead

    @property
    def limit(self) -> str:
        """The part that limits the speed of the run."""
        if self.waiting > 0.1:
            return f"data loading: steps wait for images {self.waiting:.0%} of the time"
        if self.both.high < 0.85 * self.network.low:
            return "the CPU cores, which the network and data loading share"
        return "the network"


@explain_memory_shortage(
    "set machine.checkpoint_activations, or lower training.micro_batch, training.batch_size, crop.size, "
    "machine.workers or machine.cache"
)
def plan(settings: PretrainSettings) -> Plan:
    """Measure for about half a minute what a pretraining will need on this machine. No run is created.

    This opens the images and builds the network as ``pretrain`` does. Then it measures real steps on images in
    memory, the reading of real batches, and both together. A step that would take very long is measured with fewer
    images.

    Raises:
        UserError: ``pretrain`` would raise it for these images, this network or this device.
    """
    began = time.perf_counter()
    place = choose_compute(settings.machine.device, settings.training.precision, settings.machine.workers)
    images = open_images(settings)
    if settings.online.source:
        open_labeled(settings.online.source)
    opened = time.perf_counter() - began
    prior = placeholder_prior(settings)
    reset_peak_memory(place.device)
    built = on_place(build_network(settings, prior, images.classes, published=True), settings, place)
    began = time.perf_counter()
    crops = torch.stack(list(first_crops(images, settings, _FIRST)))
    reading = (time.perf_counter() - began) / len(crops)  # seconds that a crop takes in one process
    with progress("measuring", 4, "parts") as advance:
        trial = run_trial(built, settings, place)
        reset_peak_memory(place.device)
        advance(1, "")
        trainer = build_trainer(built, settings, place, trial.images, trial.micro_batch, settings.machine.compile)
        numbers = torch.arange(trial.images)
        rgb = repeat_views(crops[numbers % len(crops)], built.views)
        labels = numbers % max(1, len(images.classes))
        first_step, _ = time_call(lambda: trainer.step(rgb, labels), place)
        network = measure_rate(lambda: trainer.step(rgb, labels), trial.images, place, _SECONDS)
        advance(1, "")
        with closing(_endless_batches(images.samples(settings), trial.images, place)) as loaded:
            data = measure_rate(lambda: next(loaded), trial.images, place, _SECONDS)
        advance(1, "")
        with closing(_endless_batches(images.samples(settings, place.workers), trial.images, place)) as loaded:
            both, waiting = measure_both(loaded, trainer, trial.images, _SECONDS)
            workers = children_memory()
        advance(1, "")

    # One validation, on enough held-out images to estimate the time for all of them.
    judged = trainer.judged.eval()
    assert isinstance(judged, Method)
    wanted = min(_VALIDATED if trial.whole else _SHOWN, settings.data.holdout)
    views, held_labels, *_ = load_held_out(images, wanted, judged.backbone.fit_size(settings.view_size))
    seconds, _ = time_call(lambda: measure_health(judged, views, held_labels, prior, place), place)
    held = min(settings.data.holdout, sum(map(len, images.held))) or len(views)
    validation = seconds * held / len(views)
    extra = checkpoint_extra(images, settings, prior, place.precision)
    save, _ = time_call(lambda: len(checkpoint_bytes({**trainer.state(), **extra})), place)
    state = trainer.state()
    host, on_device = peak_memory(), device_peak_memory(place.device)
    if not trial.whole:
        at_once = settings.training.micro_batch or settings.training.batch_size
        more = round(trial.per_image * (at_once - trial.images))
        host, on_device = (host + more, None) if on_device is None else (host, on_device + more)
    return Plan(
        place,
        settings,
        images=sum(map(len, images.training)),
        held=sum(map(len, images.held)),
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        weights=count_bytes(state["model"]),
        gradients=count_bytes([parameter for parameter in built.parameters() if parameter.requires_grad]),
        optimizer=count_bytes(state["optimizer"]),
        average=count_bytes(state.get("average", {})),
        network=network,
        data=data,
        both=both,
        waiting=waiting,
        first_step=first_step,
        before=opened + first_step + (reading * settings.objective.prior_images if estimates_prior(settings) else 0),
        validation=validation,
        save=save,
        host=host,
        device=on_device,
        workers=workers,
        disk=pretrain_disk(settings, images),
        notes=tuple(remarks_on(settings, trial)),
    )


def _endless_batches(samples: TrainDataset, images: int, place: ComputeConfig) -> Generator[Batch, None, None]:
    """Yield batches of ``images`` images, without end."""
    yield from batches(samples, images, 0, 2**40 // images, place.workers)


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


def remarks_on(settings: PretrainSettings, trial: MeasuredStep) -> list[str]:
    """Return what a reader must know about measurements that were made like this."""
    notes = ["Speeds are the slowest and the fastest that were measured; other users of the machine change them."]
    if trial.images < settings.training.batch_size:
        notes.append(
            f"Steps were measured with {trial.images} images, not {settings.training.batch_size}"
            + ("." if trial.whole else "; the memory for the whole batch is an estimate from them.")
        )
    if not trial.fits:
        lower = "batch_size" if settings.method.kind.whole_batch else "micro_batch"
        notes.append(f"A step of this size does not seem to fit into memory: lower training.{lower}.")
    if settings.backbone.init != "random":
        notes.append(f"Not included: the time to compute the initial weights (backbone.init {settings.backbone.init}).")
    if settings.online.source:
        notes.append("Not included: the time and memory of the online probe.")
    return notes


def run_trial(network: Method, settings: PretrainSettings, place: ComputeConfig) -> MeasuredStep:
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
    named = len(settings.channels)
    dtype = torch.float32 if named else torch.uint8
    crops = torch.zeros(small, named or 3, settings.crop.size, settings.crop.size, dtype=dtype)
    rgb = repeat_views(crops, network.views)
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
    network: Method,
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


def plan_lines(plan: Plan) -> list[str | Table]:
    """Return a title, a table and notes to print."""
    training, place = plan.settings.training, plan.place
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    for style in ("bold", "", ""):
        table.add_column(style=style, no_wrap=True)
    table.columns[1].justify = "right"

    row, workers = table.add_row, _count(place.workers, "worker")
    held = f"{plan.held:,} more are held out" if plan.held else "none is held out"
    row("images", f"{plan.images:,}", held)
    row("", f"{plan.samples:,}", f"samples, in {training.steps:,} steps of {training.batch_size}: "
        f"{_three(plan.samples / plan.images)} epochs", end_section=True)  # fmt: skip
    row("network only", _per_second(plan.network), "images/s, whole steps on images in memory")
    row("data only", _per_second(plan.data), f"images/s, no cache, {workers}")
    row("together", _per_second(plan.both), "images/s, as in training", end_section=True)
    row("time", _between(*plan.seconds, format_duration), f"to the end of step {training.steps:,}")
    row("", format_duration(plan.before), "of it before the first step")
    validating, saving = format_duration(plan.validations * plan.validation), format_duration(plan.saves * plan.save)
    row("", validating, f"for {plan.validations:,} validations on held-out images")
    row("", saving, f"for {plan.saves:,} checkpoints, without the time to write them to disk", end_section=True)
    if plan.device is not None:
        row("memory", size(plan.device), f"on {place.device}, at the peak")
    row("memory" if plan.device is None else "", size(plan.host), "of this process at the peak, with Python and torch")
    if place.workers:
        row("", size(plan.workers), f"of {workers}, before machine.cache is full")
    row("", size(plan.weights), f"of it weights: {plan.parameters:,} parameters")
    row("", size(plan.gradients), "gradients")
    row("", size(plan.optimizer), f"state of {training.optimizer}")
    if plan.average:
        row("", size(plan.average), "moving average of the weights")
    table.add_section()
    row("disk", size(plan.disk.lasting), "when it is complete, without the report")
    for name, count in plan.disk.parts:
        row("", size(count), name)
    threads = torch.get_num_threads()
    return [
        f"{plan.settings.backbone.name} on {place.device}, {place.precision}, 1 process, {_count(threads, 'thread')}",
        table,
        f"The limit is {plan.limit}.",
        *plan.notes,
    ]


def size(count: int) -> str:
    """Format a number of bytes: 12.3 MB."""
    if count >= 10**10:
        return f"{count / 1e9:,.1f} GB"
    if count >= 10**5:
        return f"{count / 1e6:,.1f} MB"
    return f"{count / 1e3:,.1f} kB" if count else "0"


def format_duration(seconds: float) -> str:
    """Format a time, as exactly as a plan can know it: 0.4 s, 45 s, 12 min, 2 h 10 min, 3 d 4 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(10 * round(minutes / 10), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours and days < 10 else f"{days} d"


def _between(low: float, high: float, text: Callable[[float], str]) -> str:
    low_text, high_text = text(low), text(high)
    return f"about {low_text}" if low_text == high_text else f"{low_text} to {high_text}"


def _per_second(measured: Throughput) -> str:
    return _between(measured.low, measured.high, _three)


def _three(value: float) -> str:
    """Format a number with two significant digits, with three from 100 on."""
    return f"{value:.2g}" if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def _count(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
