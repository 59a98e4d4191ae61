"""The detector: a backbone with the head of Faster R-CNN, or of Fast R-CNN on given proposals.

It is built from torchvision's region proposal network, RoI heads and feature pyramid. Anchors and pooling use the true
positions of the backbone's maps, see ``regions``. torchvision is imported where it is used: the import takes seconds,
and a study reads these settings whatever it computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pretext import roles
from pretext.backbones.contract import Stage
from pretext.errors import UserError
from transfer.tasks.alignment import FeatureAxis, FeatureNetwork, grids, stage_of
from transfer.tasks.regions import Anchors, Pool, start_of, take_last_stages
from transfer.tasks.task import Float32

_FINEST = 4


@dataclass
class DetectHeadSettings:
    """The settings of the head. Defaults are those published for images of 600 to 800 pixels.

    Args:
        form: faster: proposals come from a network on the same features (Ren et al. 2015). fast: they come with
            the images (Girshick 2015).
        neck: fpn: a feature pyramid (Lin et al. 2017) on the last stage of every stride from 4 on, and the last one
            halved once more. STAGE+STAGE...: a pyramid on these stages. STAGE: that stage's features alone.
        channels: the number of channels of every level of a pyramid.
        box: layers: two hidden layers process the features of a box. stage: the stages of the backbone after the
            neck's do, such as ResNet's layer4 after layer3 (the C4 form); they are taken out of the backbone.
        box_after: for stage: the stage after which boxes go on, if not the neck's: with neck conv5, pool5 leaves
            AlexNet's fc6 and fc7 to process them (the Fast R-CNN of its time).
        width: for layers: the number of units of each hidden layer.
        pooled: places along each side that a box's features are pooled to; for box stage, 14 is published for ResNets,
            6 for AlexNet.
        pooling: mean: the mean of four points in each of these cells, read bilinearly (RoIAlign, He et al. 2017). max:
            the maximum over the positions of the map in the cell (RoI pooling, Girshick 2015).
        anchors: for faster: roots of their areas, in pixels; each in ratios 1:2, 1:1 and 2:1. A pyramid divides them
            among its levels, in order.
        sampled: for faster: the number of anchors of an image that count in its loss, at most half of them on objects.
        candidates: for faster: the number of best boxes of each level of an image among which overlapping ones are
            removed, in training and in testing.
        proposals: for faster: the number of boxes of an image that remain after that, likewise.
        rois: the number of boxes of an image that the head learns from in a step.
        positive: the largest share of these boxes on objects.
        least_score: boxes of a lower score are no detections.
        overlap: if the intersection over union of two boxes of a class is higher, only the better box counts.
        most: the largest number of detections of an image.
    """

    form: Literal["faster", "fast"] = roles.science("faster")
    neck: str = roles.science("fpn")
    channels: int = roles.science(256, "[1, inf)")
    box: Literal["layers", "stage"] = roles.science("layers")
    box_after: str = roles.science("")
    width: int = roles.science(1024, "[1, inf)")
    pooled: int = roles.science(7, "[1, inf)")
    pooling: Literal["mean", "max"] = roles.science("mean")
    anchors: list[float] = roles.science(lambda: [32.0, 64.0, 128.0, 256.0, 512.0], "(0, 1e5)")
    sampled: int = roles.science(256, "[1, inf)")
    candidates: tuple[int, int] = roles.science((2000, 1000), "[1, inf)")
    proposals: tuple[int, int] = roles.science((2000, 1000), "[1, inf)")
    rois: int = roles.science(512, "[1, inf)")
    positive: float = roles.science(0.25, "(0, 1]")
    least_score: float = roles.science(0.05, "[0, 1)")
    overlap: float = roles.science(0.5, "(0, 1]")
    most: int = roles.science(100, "[1, inf)")

    def __post_init__(self) -> None:
        roles.check_ranges(self, "head.")
        if not self.anchors:
            raise UserError("head.anchors is empty: give one size or more, in pixels")
        if self.box_after and self.box != "stage":
            raise UserError(f"head.box_after is {self.box_after}: it needs head.box stage; set head.box to stage")


class PredictedBoxes(NamedTuple):
    """The detections of an image, the best first."""

    boxes: Tensor
    """float32 (n, 4): left, top, right, bottom, in pixels of the input image, 0 its edge."""
    scores: Tensor
    """float32 (n,), in [0, 1]."""
    labels: Tensor
    """int64 (n,), 0 the first class."""


class Detector(nn.Module):
    """A detector: sRGB in, boxes of objects out.

    Args:
        features: the backbone, as it was pretrained or adapted; ``box: stage`` takes its last stages out of it.
        classes: the number of classes, without background.
        head: the settings of the head.

    Raises:
        UserError: the backbone does not have the stages that the head needs, or the anchors do not fit them.
    """

    def __init__(self, features: FeatureNetwork, classes: int = 20, head: DetectHeadSettings | None = None) -> None:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.models.detection.roi_heads import RoIHeads
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        super().__init__()
        head = head or DetectHeadSettings()
        used, known = neck_stages(features, head), grids(features)
        maps = [known[stage.name] for stage in used]
        self.form, self.names = head.form, [stage.name for stage in used]
        parts: dict[str, nn.Module] = {}
        channels = used[0].channels
        if len(used) > 1:
            channels = head.channels
            halved = LastLevelMaxPool() if head.form == "faster" else None
            parts["neck"] = FeaturePyramidNetwork([stage.channels for stage in used], channels, halved)
        if head.form == "faster":
            levels = maps if len(used) == 1 else [*maps, FeatureAxis(2 * maps[-1].stride, maps[-1].first)]
            parts["rpn"] = _proposal_network(head, levels, channels)
        box: nn.Module
        if head.box == "stage":
            start = start_of(features, used, head.box_after)
            box, width = take_last_stages(features, start.name), features.stages[-1].channels
            weight = next(box.parameters(), torch.zeros(0))
            try:
                with torch.no_grad():
                    box.eval()(weight.new_zeros(1, start.channels, head.pooled, head.pooled))
            except RuntimeError as error:
                raise UserError(
                    f"head.pooled is {head.pooled}: too small for the layers after {start.name}; AlexNet takes 6"
                ) from error
            box.train()
            self.rates = {"head.boxes.box_head.": 1.0}  # of the backbone, whatever the rate of the head
        else:
            box, width = TwoMLPHead(channels * head.pooled**2, head.width), head.width
        parts["boxes"] = RoIHeads(
            Pool(maps, min(head.anchors), head.pooled, head.pooling),
            box,
            Float32(FastRCNNPredictor(width, classes + 1)),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=head.rois,
            positive_fraction=head.positive,
            bbox_reg_weights=None,
            score_thresh=head.least_score,
            nms_thresh=head.overlap,
            detections_per_img=head.most,
        )
        self.features, self.head = features, nn.ModuleDict(parts)

    def losses(self, rgb: Tensor, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the parts of the loss, scalars; the network must be in training mode.

        Args:
            rgb: (B, 3, H, W), uint8; smaller images padded at the right and below.
            targets: for each image "boxes", float32 (n, 4), n >= 0, within the image and none empty; "labels",
                int64 (n,); "size", int64 (2,), its height and width without padding; in form fast "proposals",
                float32 (m, 4), m >= 0.

        Returns:
            loss_classifier and loss_box_reg of the boxes; loss_objectness and loss_rpn_box_reg of the proposals.
        """
        assert self.training
        sizes = _sizes([target["size"] for target in targets])
        truth = [{"boxes": target["boxes"].float(), "labels": target["labels"] + 1} for target in targets]
        rgb, maps = self._maps(rgb, sizes)
        proposals = [target.get("proposals") for target in targets]
        boxes, first = self._propose(rgb, maps, sizes, proposals, truth)
        _, second = self.head["boxes"]({name: maps[name] for name in self.names}, boxes, sizes, truth)
        return {**first, **second}

    def loss(self, rgb: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """Return the sum of ``losses``, a scalar."""
        return torch.stack(list(self.losses(rgb, targets).values())).sum()

    def predict(
        self, rgb: Tensor, sizes: Sequence[tuple[int, int]] | Tensor, proposals: Sequence[Tensor] | None = None
    ) -> list[PredictedBoxes]:
        """Return the detections of each image; the network must be in eval mode.

        Args:
            rgb: as for ``losses``.
            sizes: height and width of each image without padding.
            proposals: in form fast, for each image, float32 (m, 4).
        """
        assert not self.training
        shown = _sizes(sizes)
        rgb, maps = self._maps(rgb, shown)
        if not all(bool(values.isfinite().all()) for values in maps.values()):
            raise UserError("the network's features are not finite; train it again with a lower training.lr")
        boxes, _ = self._propose(rgb, maps, shown, proposals or [None] * len(shown), None)
        detections, _ = self.head["boxes"]({name: maps[name] for name in self.names}, boxes, shown)
        return [PredictedBoxes(result["boxes"], result["scores"], result["labels"] - 1) for result in detections]

    def _maps(self, rgb: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the images, padded only to the largest of them, and the maps that the box head reads."""
        # Padding reaches into the features, so it must not depend on what else is in a batch that is computed in parts.
        height, width = (max(side) for side in zip(*sizes, strict=True))
        rgb = rgb[:, :, :height, :width]
        features = self.features(rgb)
        maps = {name: features[name] for name in self.names}
        return rgb, self.head["neck"](maps) if "neck" in self.head else maps

    def _propose(
        self,
        rgb: Tensor,
        maps: dict[str, Tensor],
        sizes: list[tuple[int, int]],
        proposals: Sequence[Tensor | None],
        truth: list[dict[str, Tensor]] | None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposals for each image, and the losses of the region proposal network."""
        from torchvision.models.detection.image_list import ImageList
        from torchvision.ops import clip_boxes_to_image

        if self.form == "faster":
            boxes, losses = self.head["rpn"](ImageList(rgb, sizes), maps, truth)
            return boxes, losses
        boxes = [proposed for proposed in proposals if proposed is not None]
        if not len(boxes) == len(proposals) == len(sizes):
            raise UserError("head.form is fast: it needs proposals; set proposals to a file, or to windows")
        for at, (height, width) in enumerate(sizes):
            clipped = clip_boxes_to_image(boxes[at].float(), (height, width))
            clipped = clipped[(clipped[:, 2:] > clipped[:, :2]).all(1)]
            # If no proposal is left, use the whole image.
            boxes[at] = clipped if len(clipped) else clipped.new_tensor([[0, 0, width, height]])
        return boxes, {}


class _ExactProposalHead(nn.Module):
    """torchvision's RPN head with its last layers in float32."""

    def __init__(self, channels: int, anchors: int) -> None:
        from torchvision.models.detection.rpn import RPNHead

        super().__init__()
        plain = RPNHead(channels, anchors)
        self.conv, self.score, self.box = plain.conv, Float32(plain.cls_logits), Float32(plain.bbox_pred)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.conv(values) for values in maps]
        return [self.score(values) for values in hidden], [self.box(values) for values in hidden]


def neck_stages(features: FeatureNetwork, head: DetectHeadSettings) -> list[Stage]:
    """Return the stages that the neck takes, fine before coarse.

    Raises:
        UserError: the backbone does not have them, they make no pyramid, or box stage cannot follow them.
    """
    if head.neck == "fpn":
        used = list({stage.stride: stage for stage in features.stages if stage.stride >= _FINEST}.values())
    else:
        used = [stage_of(features, name) for name in head.neck.split("+")]
    strides = [stage.stride for stage in used]
    if strides != sorted(set(strides)) or (head.neck == "fpn" and len(used) < 2):
        raise UserError(
            f"head.neck is {head.neck}: a pyramid needs stages of growing stride, from {_FINEST} on; the backbone has "
            + ", ".join(f"{stage.name} ({stage.stride})" for stage in features.stages)
            + "; name one stage to use it alone"
        )
    if head.box == "stage":
        start_of(features, used, head.box_after)
    return used


def _proposal_network(head: DetectHeadSettings, levels: list[FeatureAxis], channels: int) -> nn.Module:
    """Return the network that proposes boxes.

    Raises:
        UserError: the anchors cannot be divided among the levels.
    """
    from torchvision.models.detection.rpn import RegionProposalNetwork

    each, left = divmod(len(head.anchors), len(levels))
    if left or not each:
        raise UserError(
            f"head.anchors: {len(head.anchors)} sizes for {len(levels)} levels; give the same number for each level"
        )
    ordered = sorted(head.anchors)
    anchors = Anchors(levels, [ordered[at : at + each] for at in range(0, len(ordered), each)])
    network: nn.Module = RegionProposalNetwork(
        anchors,
        _ExactProposalHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=head.sampled,
        positive_fraction=0.5,
        pre_nms_top_n=dict(zip(("training", "testing"), head.candidates, strict=True)),
        post_nms_top_n=dict(zip(("training", "testing"), head.proposals, strict=True)),
        nms_thresh=0.7,
    )
    return network


def _sizes(sizes: Any) -> list[tuple[int, int]]:
    """Return (height, width) of each image."""
    listed = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [(int(height), int(width)) for height, width in listed]
