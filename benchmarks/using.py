"""Embedding and predicting, against the bare network with its decoding.

Ours is what ``pretint embed`` and ``pretint predict`` do with a folder of images, from its listing to the finished
files, with nothing cached. The plain way reads and crops the same images in the same number of processes, and runs the
same network on them; it keeps nothing.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.images import folder_of, origin
from benchmarks.paired import Row, paired, times_as_fast
from pretext.data import Folder
from pretext.data.batches import EvalDataset, stream
from pretext.engine.device import ComputeConfig, autocast, choose_compute
from pretext.pretrain import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from
from transfer.adapt import AdaptSettings, adapt
from transfer.embed import EmbedSettings, embed_dataset
from transfer.features import pool, run_network
from transfer.model_file import model_bytes, read_model
from transfer.networks import Network, open_network
from transfer.predict import PredictSettings, predict
from transfer.tasks.registry import TASKS

_EMBEDDED, _PREDICTED, _SIDE = 20_000, 1_000, 96
_AT_ONCE = {"embed": 64, "predict": 8}
_MOST = 5  # rounds: each takes a minute


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Embeddings of 20,000 images, and predictions of each task for 1,000; a round is a whole call."""
    place, rounds = choose_compute(str(device)), min(rounds, _MOST)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        values = {"data": {"source": "bundled"}, "crop": {"size": 64}, "training": {"steps": 2, "warmup": 1}}
        pretrain(run, settings_from(PretrainSettings, {**values, "machine": {"workers": 0}}, "benchmark"))
        small = open_network(str(run))
        images = folder_of(Path(scratch) / "images", _EMBEDDED, _SIDE)
        few = Path(scratch) / "few"
        few.mkdir()
        for file in sorted(images.iterdir())[:_PREDICTED]:
            (few / file.name).hardlink_to(file)
        setting = f"JPEGs of {origin()}, shorter side {_SIDE}, {place.workers} workers"
        ours, plain = partial(_embed, run, images, Path(scratch), device), partial(_pass, small, images, place)
        yield times_as_fast(
            "embedding a folder",
            f"{_EMBEDDED:,} {setting}, {small.backbone}",
            "decoding and the bare network",
            *paired(ours, plain, device, rounds),
            target=1 / 1.1,
        )
        network = open_network("random:resnet18")
        for task in ("classify", "detect", "segment"):
            file = Path(scratch) / f"{task}.safetensors"
            file.write_bytes(_model(task, network))
            ours = partial(_predict, file, few, Path(scratch), device)
            plain = partial(_apply, file, few, place)
            yield times_as_fast(
                f"predicting: {task}",
                f"{_PREDICTED:,} {setting}, {network.backbone}",
                "decoding and the bare network",
                *paired(ours, plain, device, rounds),
                target=0.9,
            )


def _embed(run: Path, images: Path, scratch: Path, device: torch.device) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        settings = EmbedSettings(out=f"{cache}/e.npz", cache=cache, size=_SIDE, device=str(device))
        embed_dataset(str(run), str(images), settings)


@torch.inference_mode()
def _pass(network: Network, images: Path, place: ComputeConfig) -> None:
    source = Folder(str(images))
    network.module.to(place.device)
    last = network.stages[-1].name
    for batch in stream(EvalDataset(source, _SIDE), range(len(source)), _AT_ONCE["embed"], place.workers):
        pool(run_network(network, batch.rgb, place)[last].float(), "mean").cpu()


def _model(task: str, network: Network) -> bytes:
    """A model of random weights."""
    kind = TASKS[task]
    settings = kind.settings(size=_SIDE)
    made = kind.open.without_images(settings, [f"class {number}" for number in range(20)], False)  # type: ignore[attr-defined]
    used = made.used(network.module)
    module = made.network(adapt(network, AdaptSettings(), None, False, used))
    return model_bytes(made, network, False, settings, module.state_dict())


def _predict(model: Path, images: Path, scratch: Path, device: torch.device) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        predict(str(model), str(images), PredictSettings(out=out, device=str(device)))


@torch.inference_mode()
def _apply(model: Path, images: Path, place: ComputeConfig) -> None:
    opened, source = read_model(model), Folder(str(images))
    opened.module.to(place.device)
    views = opened.task.plain_views(source)
    for batch in stream(views, range(len(source)), _AT_ONCE["predict"], place.workers):
        with autocast(place):
            opened.task.apply(opened.module, batch, batch.rgb.to(place.device, non_blocking=True))
