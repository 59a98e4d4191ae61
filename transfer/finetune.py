"""The fine-tuning job: it makes a trained run and a result file for each network on a task."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import nn

from pretext import roles
from pretext.data.batches import EvalDataset, stream
from pretext.engine import distributed
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.device import ComputeConfig, choose_compute, device_name, versions
from pretext.engine.journal import read_journal, skipped_images, training_seconds
from pretext.engine.loop import Validation, resume_or_start, train
from pretext.engine.memory import explain_memory_shortage, peak_memory, reset_peak_memory
from pretext.engine.progress import say
from pretext.engine.run import newest_checkpoint
from pretext.engine.signals import WARNINGS, ExitStatus, catch_signals
from pretext.engine.trainer import Trainer
from pretext.errors import UserError
from pretext.files import write_png
from pretext.settings import to_plain
from transfer.adapt import Adapted, AdaptSettings, adapt
from transfer.bootstrap import ABOUT
from transfer.features import View, calibrate_batch_norm
from transfer.metrics import make_row
from transfer.model_file import NAME, model_bytes, write_model
from transfer.networks import Network, open_networks
from transfer.results import (
    PREFIX,
    RESCALED,
    Cost,
    ModelInfo,
    Result,
    code_digest,
    load_matching_result,
    read_result,
    write_result,
)
from transfer.tasks.alignment import FeatureNetwork
from transfer.tasks.registry import open_task
from transfer.tasks.task import FinetuneSettings, Task, predictions, split_holdout
from transfer.tasks.visualize import sheet

_STATISTICS = 96  # images that a network is rescaled with


class FinetuneResults(NamedTuple):
    """The results of a call."""

    results: list[Result]
    """The results of the networks that are done, in order; only on the first of several processes."""
    ending: ExitStatus
    """Whether all networks are done; if not, what stopped the work. The same call continues it."""


class Start(NamedTuple):
    """The start of a fine-tuning: a network, rescaled or not."""

    network: Network
    rescale: bool

    @property
    def model_info(self) -> ModelInfo:
        """The name and identity of the network in results and tables; a rescaled network counts as another one."""
        network = self.network
        name, group, weights = network.name, network.group, network.weights
        if self.rescale:
            name, group, weights = f"{RESCALED}{name}", _hash(group, "rescaled"), _hash(weights, "rescaled")
        return ModelInfo(name, group[:16], network.kind, network.seed, network.step, network.backbone, weights)


@explain_memory_shortage(
    "set machine.checkpoint_activations, or lower training.micro_batch, training.batch_size, size, machine.workers or "
    "machine.cache"
)
def finetune(networks: Sequence[str], settings: FinetuneSettings) -> FinetuneResults:
    """Train networks on a task, each with a new head, and evaluate each once on the test images.

    A second call continues where the first was interrupted, to the bit on the same machine's CPU, and reads the
    results of networks that are done. Several processes (see ``pretext.engine.distributed``) that all call it share
    the training.

    Args:
        networks: see ``transfer.networks.open_network``; a network after ``rescaled:`` is rescaled first.
        settings: the settings of one task.

    Returns:
        The results, and whether they are complete.

    Raises:
        UserError: see the message.
    """
    place = choose_compute(settings.machine.device, settings.training.precision, settings.machine.workers)
    with catch_signals(*WARNINGS) as warned, distributed.process_group(place.device):
        distributed.on_rank_zero(lambda: settings.training.share(distributed.world_size()))
        task = distributed.on_rank_zero(lambda: open_task(settings)) or open_task(settings)
        runs = [FinetuneJob(start, task, settings, place) for start in starts(networks, settings)]
        for run in runs:  # report settings that do not fit before the long work starts
            run.check()
        results: list[Result] = []
        for run in runs:
            result = distributed.on_rank_zero(run.load_finished)
            if not distributed.broadcast_from_rank_zero(lambda result=result: result is not None):  # type: ignore[misc]
                reset_peak_memory(place.device)
                ending = run.train(warned)
                if ending != ExitStatus.COMPLETE:
                    return FinetuneResults(results, ending)
                result = run.evaluate()
            elif distributed.is_rank_zero():
                run.write_missing_model()
            if result is not None:
                results.append(result)
    return FinetuneResults(results, ExitStatus.COMPLETE)


def starts(specs: Sequence[str], settings: FinetuneSettings) -> list[Start]:
    """Return the networks to train, each once: runs of one architecture and seed share a network at random weights."""
    unique: dict[str, Start] = {}
    for rescale in (False, True):
        names = [spec.removeprefix(PREFIX) for spec in specs if spec.startswith(PREFIX) == rescale]
        if wrong := [name for name in names if rescale and (not name or name.startswith(PREFIX))]:
            raise UserError(f"{PREFIX}{wrong[0]}: name exactly one network after {PREFIX}, such as {PREFIX}random:RUN")
        opened = open_networks(names, settings.seed, settings.reference, settings.backbone)
        for start in (Start(network, rescale) for network in opened):
            unique.setdefault(start.model_info.weights, start)
    return list(unique.values())


class FinetuneJob:
    """A network on a task: its run and its result."""

    def __init__(self, start: Start, task: Task, settings: FinetuneSettings, place: ComputeConfig) -> None:
        self.start, self.task, self.settings, self.place = start, task, settings, place
        self.network = start.network
        if settings.freeze_to and settings.freeze_to not in [stage.name for stage in self.network.stages]:
            names = ", ".join(stage.name for stage in self.network.stages)
            raise UserError(f"freeze_to is {settings.freeze_to}: {self.network.name} has no such stage; it has {names}")
        self.training, self.held = split_holdout(task.train, settings.holdout, settings.seed)
        home = Path(settings.out) if settings.out else self.network.run or Path("runs/finetuned")
        # Of voc:2007:test:/data/VOCdevkit the part, of a path its end; the digest tells equal names apart.
        test = settings.test.rpartition(":")[0] or settings.test
        words = [task.name, test, settings.protocol, start.model_info.name, settings.trained, f"seed{settings.seed}"]
        name = ".".join(re.sub(r"[^\w.+%@-]+", "-", word).strip("-.")[-40:] for word in words)
        name = f"{name}.{_hash(self.facts, start.model_info.weights)[:6]}"
        self.folder = home / "finetuned" / name
        self.file = (home / "results" if home == self.network.run else home) / f"{name}.json"

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that the result depends on, except the network; plain values."""
        settings, task = self.settings, self.task
        return {
            "protocol": settings.protocol,
            "settings": json.loads(json.dumps({"task": task.name, **settings.science})),
            "train_digest": task.train_digest,
            "test_digest": task.test_digest,
            "view_size": settings.size,
            "seed": settings.seed,
            **({"n_shared": task.n_shared} if task.n_shared else {}),  # the facts name the run, and most have none
        }

    @property
    def stored_settings(self) -> dict[str, Any]:
        """The content of the run's settings.yaml."""
        model_info = self.start.model_info
        network = {
            "name": model_info.name,
            "backbone": model_info.backbone,
            "weights": model_info.weights,
            "rescaled": self.start.rescale,
        }
        shown = roles.select(self.settings, "science", "seed") | {"machine": to_plain(self.settings.machine)}
        return {"task": self.task.name, "network": network, "places": self.settings.places, **shown}

    @property
    def _side(self) -> int:
        """Side, in pixels, of the squares that statistics are computed of."""
        return self.network.fit_size(self.settings.size or self.network.view_size)

    def check(self) -> None:
        """Refuse, by a ``UserError``, a network that the task's head does not fit."""
        try:
            self.build_network(self.place._replace(device=torch.device("cpu")), fresh=False)
        except UserError as error:
            prefix = f"{self.network.name}: "  # some messages have it
            raise UserError(prefix + str(error).removeprefix(prefix)) from error

    def load_finished(self) -> Result | None:
        """Return the result that was made of the very same network, data and settings, if there is one."""
        return load_matching_result(self.file, self.start.model_info, self.facts)

    def train(self, warned: Any) -> ExitStatus:
        """Train until all steps are done or a stop is requested."""
        settings, task, run = self.settings, self.task, self.folder
        with resume_or_start(
            run, self.stored_settings, self.place, self._trainer, self._check_resumed, free=("machine", "places")
        ) as trainer:
            place = trainer.place
            validation = Validation(run, trainer, lambda network: self._evaluate_held(network, place))
            room = settings.machine.cache * 2**20 // (max(1, place.workers) * distributed.local_world_size())
            return train(
                run,
                trainer,
                task.examples(self.training, room),
                # Without held-out images the network never leaves training mode.
                validation if len(self.held) else lambda journal: None,
                warned,
                facts={"versions": versions(), "precision": place.precision, "workers": place.workers},
                stored={
                    "settings": self.stored_settings,
                    "precision": place.precision,
                    "data": {"digest": task.train_digest},
                    "versions": versions(),
                },
                skipped=task.problems,
                replayable=False,
                title=f"{task.name}: {self.start.model_info.name}",
            )

    def _trainer(self, state: dict[str, Any] | None, place: ComputeConfig) -> Trainer:
        network = self.build_network(place, fresh=state is None)
        return Trainer(network, self.settings.training, self.settings.machine, place, self.settings.seed)

    def _check_resumed(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Refuse, by a ``UserError``, a checkpoint of another job or of other images."""
        if not {"model", "optimizer", "precision", "data", "step"} <= state.keys():
            raise UserError(f"{checkpoint}: this checkpoint is not from fine-tuning; choose a new folder with --out")
        if state["data"] != {"digest": self.task.train_digest}:
            raise UserError(
                f"{self.settings.train}: the images or their annotations changed since the run {self.folder} "
                "began; restore them, or remove that folder to start again"
            )

    def _evaluate_held(
        self, network: nn.Module, place: ComputeConfig
    ) -> tuple[dict[str, dict[str, Any]], Image.Image | None]:
        """Return the scores on the held-out images, as a record of the journal, and a sheet that shows some images."""
        answers, _ = predictions(self.task, network, self.held, place)
        if not answers:
            return {}, None
        outcomes = self.task.outcomes(self.held, answers)
        scores = {re.sub(r"\W+", "_", variant or "score"): outcome.value for variant, outcome in outcomes}
        return {"health": scores}, sheet(self.task, self.held, answers)

    def build_network(self, place: ComputeConfig, fresh: bool) -> nn.Module:
        """Build the network; if ``fresh``, with the weights at the start of training."""
        settings, start = self.settings, self.start
        start.network.set_source(self.task.train)
        if fresh and start.network.calibrated:
            # Every process computes them: the first process sends weights to the others, but not statistics.
            calibrate_batch_norm(start.network, self.training, View(self._side, 1.0), place)
        images: torch.Tensor | None = None
        if fresh and start.rescale:
            wanted = range(min(_STATISTICS, len(self.training)))
            batches = [batch.rgb for batch in stream(EvalDataset(self.training, self._side), wanted, len(wanted), 0)]
            if not batches or not len(batches[0]):
                raise UserError(f"{settings.train}: none of {len(wanted)} images can be read")
            images = batches[0]
        adaptation = AdaptSettings(settings.freeze_to, settings.batch_norm, settings.color)
        used = self.task.used(cast(FeatureNetwork, start.network.module))
        features: Adapted = adapt(start.network, adaptation, images, start.rescale, used)
        if fresh and distributed.is_rank_zero():
            for note in features.notes:
                say(f"{start.model_info.name}: {note}")
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            network = self.task.network(features)
        if settings.head_rate != 1:
            rates: dict[str, float] = getattr(network, "rates", {})  # of the keys that match a name, the first counts
            network.rates = {**rates, "head.": settings.head_rate}  # type: ignore[assignment]
        layout = torch.channels_last if settings.machine.channels_last else torch.contiguous_format
        return network.to(place.device).to(memory_format=layout)

    def evaluate(self) -> Result | None:
        """Evaluate the trained network on the test images and write the result, which only the first process returns.

        Each process predicts its share of the images.
        """
        task, start = self.task, self.start
        newest = distributed.broadcast_from_rank_zero(lambda: newest_checkpoint(self.folder))
        assert newest is not None, self.folder
        network, place = self._open_trained(newest)
        began = time.monotonic()
        results, skipped = predictions(
            task, network, task.test, place, f"test: {start.model_info.name}", distributed.world_size()
        )
        seconds = time.monotonic() - began
        return distributed.on_rank_zero(lambda: self._write_result(network, place, results, skipped, seconds))

    def _open_trained(self, checkpoint: Path) -> tuple[nn.Module, ComputeConfig]:
        """Return the trained network, and the place and precision of its training."""
        state = load_checkpoint(checkpoint)
        place = self.place._replace(precision=state["precision"])
        network = self.build_network(place, fresh=False)
        network.load_state_dict(state.get("average", state["model"]))
        return network, place

    def model_bytes(self, network: nn.Module) -> bytes:
        """Return the content of the file of a trained network."""
        return model_bytes(self.task, self.start.network, self.start.rescale, self.settings, network.state_dict())

    def write_missing_model(self) -> None:
        """Write the file of a trained network whose result is there, as earlier versions did not."""
        newest = newest_checkpoint(self.folder)
        if newest is not None and not (self.folder / NAME).exists():
            write_model(self.folder / NAME, self.model_bytes(self._open_trained(newest)[0]))

    def _write_result(
        self,
        network: nn.Module,
        place: ComputeConfig,
        results: dict[int, Any],
        skipped: list[tuple[str, str]],
        seconds: float,
    ) -> Result:
        """Write the result of predictions for the test images, and read it back."""
        settings, task, start = self.settings, self.task, self.start
        outcomes = task.outcomes(task.test, results) if results else []
        if not outcomes:
            reason = f"cannot read {': '.join(skipped[0])}" if skipped else "no annotation counts"
            raise UserError(f"{settings.test}: there is no test image to evaluate the network on; {reason}")
        write_png(self.folder / "samples" / "test.png", sheet(task, task.test, results))
        write_model(self.folder / NAME, self.model_bytes(network))
        trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        records = read_journal(self.folder)
        skipped = [*skipped_images(self.folder), *skipped]
        rows = tuple(
            make_row(settings.trained, variant, trained, task.head, {}, None, [outcome])
            for variant, outcome in outcomes
        )
        result = Result(
            **self.facts,
            train=settings.train,
            test=settings.test,
            network=start.model_info,
            about=task.about,
            mode="fine-tuned",
            metric=task.metric,
            classes=tuple(task.classes),
            n_fit=len(self.training),
            n_holdout=len(self.held),
            n_train=len(task.train),
            n_test=len(results),
            fraction=1.0,
            split=f"holdout {len(self.held)}, seed {settings.seed}",
            split_sha256=_hash(task.train_digest, len(self.held), settings.seed),
            view_ratio=1.0,
            precision=place.precision,
            storage="",
            rows=rows,
            cost=Cost(
                seconds=training_seconds(records, settings.training.batch_size) + seconds,
                extraction_seconds=seconds,
                images_per_second=len(results) / max(seconds, 1e-9),
                peak_bytes=peak_memory(),
                cache_bytes=0,
                device=device_name(place.device),
            ),
            code=code_digest(),
            versions=versions(),
            skipped=tuple(dict.fromkeys(skipped)),
            interval=ABOUT[task.metric],
        )
        write_result(self.file, result)
        return read_result(self.file)


def _hash(*identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
