"""What a trained network says of images, and how that looks beside the truth."""

import contextlib
from typing import Any

import torch
from PIL import Image
from torch import nn

from pretext.contact_sheet import contact_sheet
from pretext.data.batches import stream
from pretext.data.source import Source
from pretext.engine import distributed
from pretext.engine.device import Place, autocast
from pretext.engine.progress import progress
from transfer.tasks.task import Task

_SHOWN = 8
_AT_ONCE = 8


@torch.inference_mode()
def predictions(
    task: Task, network: nn.Module, source: Source, place: Place, title: str = "", processes: int = 1
) -> tuple[dict[int, Any], list[tuple[str, str]]]:
    """What a network says of every image of a source, by index; and those that cannot be read, key and reason.

    So many processes each look at a share, and all of them know of all.
    """
    network.eval()
    views = task.views(source)
    own = range(distributed.rank() if processes > 1 else 0, len(views), processes)
    found: dict[int, Any] = {}
    skipped: list[tuple[str, str]] = []
    shown = (
        progress(title, len(own), "images")
        if title and distributed.is_first()
        else contextlib.nullcontext(lambda more, remark: None)
    )
    with shown as advance:
        for batch in stream(views, own, _AT_ONCE, place.workers):
            skipped += batch.skipped
            if len(batch.rgb):
                with autocast(place):
                    said = task.predict(network, batch, batch.rgb.to(place.device, non_blocking=True))
                for label, one in zip(batch.labels, said, strict=True):
                    found[int(label["index"])] = one
            advance(len(batch.rgb) + len(batch.missing), "")
    if processes > 1:
        return dict(distributed.gathered(list(found.items()))), distributed.gathered(skipped)
    return found, skipped


def sheet(task: Task, source: Source, found: dict[int, Any]) -> Image.Image:
    """Some images, spread over all that were answered: with the truth, and with what was found."""
    indices = sorted(found)
    step = max(1, len(indices) // _SHOWN)
    rows = [task.drawn(source, index, found[index]) for index in indices[::step][:_SHOWN]]
    return contact_sheet(rows, ("truth", "found"), cell=(300, 225), across=2)
