"""Predictions of a fine-tuned network for images without labels: a table, COCO's JSON, masks, and drawn images."""

import contextlib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from pretext import roles
from pretext.data import open_dataset
from pretext.data.batches import stream
from pretext.data.channels import channels_of
from pretext.data.formats import without_ending
from pretext.data.source import ImageDataset
from pretext.engine.device import ComputeConfig, autocast, choose_compute
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.progress import progress
from pretext.engine.signals import catch_signals, exit_with
from pretext.errors import UserError
from pretext.escape import csv_text
from pretext.false_color import to_photograph
from pretext.files import write_atomically, write_png
from pretext.store import Artifact
from transfer.model_file import FinetunedModel, read_model
from transfer.tasks import visualize
from transfer.tasks.task import Task

_AT_ONCE = 8
_PART = 512  # images whose predictions are saved together
TABLE, BOXES = "predictions.csv", "predictions.json"


@dataclass
class PredictSettings:
    """The settings of predictions.

    Args:
        out: required: the folder to write to.
        draw: also write each image with its prediction drawn into it.
        least: of boxes, the lowest score that is written.
        device: auto (the GPU if there is one), cpu, cuda, ...
        precision: the precision of the network, as in pretraining: auto, bf16, fp32.
        workers: processes that decode images; -1 takes 1 beside a CPU and up to 12 beside a GPU.
    """

    out: str = roles.machine("")
    draw: bool = roles.science(False)
    least: float = roles.science(0.3, "[0, 1]")
    device: str = roles.machine("auto")
    precision: Literal["auto", "bf16", "fp32"] = roles.science("auto")
    workers: int = roles.machine(-1, "[-1, 256]")

    def __post_init__(self) -> None:
        roles.check_ranges(self)


class Predicted(NamedTuple):
    """What ``predict`` wrote."""

    folder: Path
    images: int
    files: list[Path]
    skipped: list[tuple[str, str]]
    """Key and reason of the images that cannot be read."""


def require_out(settings: PredictSettings) -> Path:
    """Return the folder of the settings. Raises UserError if none is set."""
    if not settings.out:
        raise UserError("out is not set: give a folder for the predictions, --out FOLDER")
    return Path(settings.out)


@explain_memory_shortage("lower workers")
def predict(model: str, dataset: str, settings: PredictSettings) -> Predicted:
    """Write what a fine-tuned network finds in images.

    A call that is interrupted goes on when it is made again.

    Args:
        model: a folder of ``finetune``, or its model.safetensors.
        dataset: images: a folder, tar shards, ...: see docs/data.md.
        settings: the settings.

    Raises:
        UserError: a setting is wrong; the model or the images cannot be opened; or the folder cannot be written.
        KeyboardInterrupt, SystemExit: a signal requested a stop; what is done is kept.
    """
    out = require_out(settings)
    place = choose_compute(settings.device, settings.precision, settings.workers)
    opened, source = read_model(Path(model)), open_dataset(dataset)
    if channels_of(source) != opened.channels:
        ours, theirs = (", ".join(names) or "8-bit sRGB" for names in (opened.channels, channels_of(source)))
        raise UserError(f"{dataset}: has {theirs}, and {model} was trained on {ours}; give such images")
    identity = {
        "model": _digest_of(opened),
        "images": source.digest(),
        "settings": roles.select(settings, "science"),
        "precision": place.precision,
    }
    artifact = Artifact(out / ".partial", identity, "predictions", "choose another folder with --out")
    opened.module.to(place.device)
    names = file_names(source.key(index) for index in range(len(source)))
    with artifact.open("predicting there"), catch_signals() as stop_status:
        records = [record for _, path in sorted(artifact.parts().items()) for record in json.loads(path.read_bytes())]
        with progress("predict", len(source), "images", done=len(records)) as advance:
            while (start := len(records)) < len(source):
                indices = range(start, min(start + _PART, len(source)))
                with contextlib.closing(_predict(opened, source, indices, place, names, settings)) as found:
                    for of_batch in found:
                        records += of_batch
                        advance(len(of_batch), "")
                        if stop_status():
                            break
                artifact.write(f"{start:09}", "json", json.dumps(records[start:]).encode())
                if (ending := stop_status()) and len(records) < len(source):
                    exit_with(ending, "the predictions so far are kept")
        files = _write(opened.task, source, records, out)
        artifact.keep(())
    skipped = [(record["image"], record["reason"]) for record in records if "reason" in record]
    return Predicted(out, len(records) - len(skipped), files, skipped)


def _digest_of(model: FinetunedModel) -> str:
    digest = hashlib.sha256(json.dumps(model.facts, sort_keys=True).encode())
    for name, tensor in model.module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_names(keys: Iterable[str]) -> list[str]:
    """Return for each image a path below a folder, without ending: its key, as far as that leads nowhere else.

    The ending of an image file is left out, so that labels such as ``masks:IMAGES:MASKS`` fit the images; images that
    differ only in it keep it.
    """
    inside = ["/".join(part for part in key.split("/") if part not in ("", ".", "..")) for key in keys]
    times = Counter(map(without_ending, inside))
    names: dict[str, None] = {}
    for key in inside:
        name = without_ending(key) if times[without_ending(key)] == 1 else key
        while name in names:
            name += "~"
        names[name] = None
    return list(names)


@torch.inference_mode()
def _predict(
    model: FinetunedModel,
    source: ImageDataset,
    indices: range,
    place: ComputeConfig,
    names: Sequence[str],
    settings: PredictSettings,
) -> Generator[list[dict[str, Any]]]:
    """Yield the records of some images after the others, in order; masks and drawn images are written."""
    task, out = model.task, Path(settings.out)
    views = task.plain_views(source)
    reasons: dict[str, str] = {}
    at = indices.start
    for batch in stream(views, indices, _AT_ONCE, place.workers):
        reasons.update(batch.skipped)
        outputs: list[Any] = []
        if len(batch.rgb):
            with autocast(place):
                outputs = task.apply(model.module, batch, batch.rgb.to(place.device, non_blocking=True))
        by_index = {int(label["index"]): output for label, output in zip(batch.labels, outputs, strict=True)}
        records = []
        for index in range(at, at + len(batch.rgb) + len(batch.missing)):
            key = source.key(index)
            if index not in by_index:
                records.append({"image": key, "reason": reasons.get(key, "cannot be read")})
                continue
            output = by_index[index]
            if task.name == "segment":
                write_mask(out / "masks" / f"{names[index]}.png", output)
            if settings.draw:
                drawn = task.drawn_prediction(to_photograph(source.read(index)), output, settings.least)
                _write_jpeg(out / "drawn" / f"{names[index]}.jpg", drawn)
            records.append({"image": key, **task.plain(output, settings.least)})
        at += len(records)
        yield records


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask (H, W), uint8, as PNG with the palette of PASCAL VOC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask).convert("P")
    image.putpalette([channel for number in range(256) for channel in visualize.color(number)])
    write_png(path, image)


def _write_jpeg(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    write_atomically(path, buffer.getbuffer())


def _write(task: Task, source: ImageDataset, records: list[dict[str, Any]], out: Path) -> list[Path]:
    """Write the table, and for boxes COCO's JSON; return the files."""
    header, rows = task.table(records)
    files = [out / TABLE]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(files[0], csv_text(header, rows).encode())
    if task.name == "detect":
        numbers = {name: number for number, name in enumerate(task.classes, 1)}
        content = {
            "images": [{"id": number, "file_name": record["image"]} for number, record in enumerate(records, 1)],
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
            "annotations": [
                {
                    "image_id": number,
                    "category_id": numbers[name],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "score": score,
                }
                for number, record in enumerate(records, 1)
                for name, score, (left, top, right, bottom) in record.get("boxes", ())
            ],
        }
        for number, annotation in enumerate(content["annotations"], 1):
            annotation["id"] = number
        files.append(out / BOXES)
        write_atomically(files[1], json.dumps(content).encode())
    return files
