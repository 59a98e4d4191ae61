"""Real pictures with boxes and masks, and networks over-fitted to them: what the tests of the tasks share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pretext.backbones import build_backbone
from pretext.pictures.voc import CLASSES
from pretext.weights.inputs import FromRgb


class Known(NamedTuple):
    """Pictures of PASCAL VOC, padded to one size, and what is known of them."""

    rgb: Tensor
    """uint8 (B, 3, H, W)."""
    targets: list[dict[str, Tensor]]
    masks: Tensor
    """uint8 (B, H, W)."""
    presence: Tensor
    """int8 (B, 20)."""


def known(data: Path, count: int, shorter: int) -> Known:
    """The first pictures of voc-mini's VOC2012 val, whatever they show, with a shorter side of so many pixels."""
    folder = data / "voc-mini" / "VOCdevkit" / "VOC2012"
    keys = (folder / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:count]
    pictures, masks, targets = [], [], []
    presence = torch.zeros(count, len(CLASSES), dtype=torch.int8)
    for number, key in enumerate(keys):
        picture = Image.open(folder / "JPEGImages" / f"{key}.jpg")
        scale = shorter / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        pictures.append(torch.from_numpy(np.array(picture.resize(size))).permute(2, 0, 1))
        mask = Image.open(folder / "SegmentationClass" / f"{key}.png").resize(size, Image.Resampling.NEAREST)
        masks.append(torch.from_numpy(np.array(mask)))
        boxes, labels = [], []
        for thing in ElementTree.parse(folder / "Annotations" / f"{key}.xml").getroot().iter("object"):
            left, top, right, bottom = (
                float(thing.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            boxes.append([scale * (left - 1), scale * (top - 1), scale * right, scale * bottom])
            labels.append(CLASSES.index(thing.findtext("name", "")))
        presence[number, labels] = 1
        size_hw = torch.tensor(size[::-1])
        targets.append({"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "size": size_hw})
    sides = [max(picture.shape[axis] for picture in pictures) for axis in (1, 2)]
    rgb = torch.zeros(count, 3, *sides, dtype=torch.uint8)
    whole = torch.full((count, *sides), 255, dtype=torch.uint8)
    for number, (picture, own) in enumerate(zip(pictures, masks, strict=True)):
        rgb[number, :, : picture.shape[1], : picture.shape[2]] = picture
        whole[number, : own.shape[0], : own.shape[1]] = own
    return Known(rgb, targets, whole, presence)


def tiny(name: str = "tiny", **arguments: Any) -> nn.Module:
    """A small network from sRGB to stages, with random weights."""
    torch.manual_seed(0)
    return FromRgb(build_backbone(name, **arguments))


def fit(network: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float, bf16: bool = True) -> list[float]:
    """Train on the same pictures over and over, by plain Adam and a rate that falls at the end: the losses."""
    torch.manual_seed(1)
    made = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr, fused=True)
    losses = []
    network.train()
    for step in range(steps):
        made.param_groups[0]["lr"] = lr * min(1, 4 * (1 - step / steps), (step + 1) / 10)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        made.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        made.step()
        losses.append(float(value.detach()))
    network.eval()
    return losses
