"""Real images with boxes and masks, and networks over-fitted to them: what the tests of the tasks share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pretext.backbones import build_backbone
from pretext.backbones.contract import FromRgb
from pretext.data.voc import CLASSES


class KnownImages(NamedTuple):
    """Images of PASCAL VOC, padded to one size, and what is known of them."""

    rgb: Tensor
    """uint8 (B, 3, H, W)."""
    targets: list[dict[str, Tensor]]
    masks: Tensor
    """uint8 (B, H, W)."""
    presence: Tensor
    """int8 (B, 20)."""


def load_known_images(data: Path, count: int, shorter: int) -> KnownImages:
    """Images all over voc-mini's VOC2012 val, with a shorter side of so many pixels and no small object."""
    folder = data / "voc-mini" / "VOCdevkit" / "VOC2012"
    listed = (folder / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    images, masks, targets, presence = [], [], [], []
    for key in listed[::3]:
        image = Image.open(folder / "JPEGImages" / f"{key}.jpg")
        scale = shorter / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        corners, labels = [], []
        for thing in ElementTree.parse(folder / "Annotations" / f"{key}.xml").getroot().iter("object"):
            left, top, right, bottom = (
                float(thing.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            corners.append([scale * (left - 1), scale * (top - 1), scale * right, scale * bottom])
            labels.append(CLASSES.index(thing.findtext("name", "")))
        boxes = torch.tensor(corners)
        if (boxes[:, 2:] - boxes[:, :2]).min() < shorter / 3:
            continue
        images.append(torch.from_numpy(np.array(image.resize(size))).permute(2, 0, 1))
        mask = Image.open(folder / "SegmentationClass" / f"{key}.png").resize(size, Image.Resampling.NEAREST)
        masks.append(torch.from_numpy(np.array(mask)))
        targets.append({"boxes": boxes, "labels": torch.tensor(labels), "size": torch.tensor(size[::-1])})
        presence.append(torch.zeros(len(CLASSES), dtype=torch.int8).index_fill(0, torch.tensor(labels), 1))
        if len(images) == count:
            break
    sides = [max(image.shape[axis] for image in images) for axis in (1, 2)]
    rgb = torch.zeros(count, 3, *sides, dtype=torch.uint8)
    whole = torch.full((count, *sides), 255, dtype=torch.uint8)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        rgb[number, :, : image.shape[1], : image.shape[2]] = image
        whole[number, : mask.shape[0], : mask.shape[1]] = mask
    return KnownImages(rgb, targets, whole, torch.stack(presence))


def build_tiny(name: str = "tiny", **arguments: Any) -> nn.Module:
    """A small network from sRGB to stages, with random weights."""
    torch.manual_seed(0)
    return FromRgb(build_backbone(name, **arguments))


def overfit_images(network: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float) -> list[float]:
    """Train on the same images over and over, by plain Adam and a rate that falls at the end: the losses."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr, fused=True)
    losses = []
    network.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, 4 * (1 - step / steps), (step + 1) / 10)
        value = loss()  # in float32: a processor without bfloat16 takes 12 times as long for it
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        losses.append(float(value.detach()))
    network.eval()
    return losses
