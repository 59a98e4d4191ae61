"""MAE: a vision transformer sees a quarter of an image's patches, and a small decoder paints the others.

He, Chen, Xie, Li, Dollár, Girshick, "Masked autoencoders are scalable vision learners", CVPR 2022.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pretext.backbones.from_timm import TimmBackbone
from pretext.data.order import mix
from pretext.errors import UserError
from pretext.methods.contract import Ingredients, Method
from pretext.methods.uniforms import uniforms

_KEY = 0x3AE


class MAE(Method):
    """A plain vision transformer of timm, and a decoder of a few blocks.

    The target is what the backbone reads, each patch normalized by its own mean and variance; the loss is the mean
    squared error over the patches that the encoder did not see.

    Args:
        parts: see ``Ingredients``.
        mask: the share of the patches that the encoder does not see.
        width: channels of the decoder.
        depth: blocks of the decoder.
        heads: attention heads of the decoder.
    """

    def __init__(
        self, parts: Ingredients, mask: float = 0.75, width: int = 128, depth: int = 2, heads: int = 4
    ) -> None:
        from timm.models.vision_transformer import Block, VisionTransformer  # not at the top: the import takes seconds

        super().__init__()
        backbone = parts.backbone
        net = getattr(getattr(backbone, "net", None), "model", None)
        if not isinstance(backbone, TimmBackbone) or not isinstance(net, VisionTransformer) or net.pos_embed is None:
            raise UserError(
                "method mae trains plain vision transformers only; set backbone.name to one of timm's, such as "
                "vit_tiny_patch16_224"
            )
        if not 0 < mask < 1:
            raise UserError(f"method.arguments: mask is {mask}: it must lie in (0, 1)")
        if width < 4 or width % 4 or heads < 1 or width % heads or depth < 1:
            raise UserError("method.arguments: width must be a multiple of 4 and of heads, and depth at least 1")
        self.backbone: TimmBackbone = backbone
        self.seed, self.mask = parts.seed, mask
        self.patch: tuple[int, int] = net.patch_embed.patch_size
        self.norm = nn.LayerNorm(net.embed_dim)
        self.embed = nn.Linear(net.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, backbone.channels * self.patch[0] * self.patch[1])
        )

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """Return the decoder's patches, (B, N, channels * height * width of a patch).

        Args:
            x: (B, C, H, W), as ``TimmBackbone.normalize`` returns it.
            order: (B, N), the numbers of the patches, those that the encoder sees first.
        """
        net: Any = self.backbone.net.model
        tokens = net._pos_embed(net.patch_embed(x))
        prefix, patches = tokens.split((net.num_prefix_tokens, order.shape[1]), 1)
        seen = order[:, : self.seen(order.shape[1])]
        visible = patches.gather(1, seen[..., None].expand(-1, -1, patches.shape[-1]))
        encoded = net.blocks(net.norm_pre(torch.cat((prefix, visible), 1)))[:, prefix.shape[1] :]
        encoded = self.embed(self.norm(encoded))
        positions = sine_positions(x.shape[-2] // self.patch[0], x.shape[-1] // self.patch[1], encoded.shape[-1])
        whole = self.mask_token.to(encoded.dtype).expand(*order.shape, -1)
        whole = whole.scatter(1, seen[..., None].expand_as(encoded), encoded)
        painted: Tensor = self.head(self.blocks(whole + positions.to(encoded)))
        return painted

    def seen(self, patches: int) -> int:
        """Return how many of so many patches the encoder sees: at least 1, and not all."""
        return min(max(1, int(patches * (1 - self.mask))), patches - 1)

    def patches(self, x: Tensor) -> Tensor:
        """Return the patches of x, (B, C, H, W), each with its pixels in one row, (B, N, C * height * width)."""
        height, width = self.patch
        rows = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # (B, C, rows, height, columns, width)
        flat: Tensor = rows.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        return flat

    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return the mean squared error over each image's masked patches, (B,)."""
        x = self.backbone.normalize(self.backbone.to_input(rgb))
        target = self.patches(x).float()
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
        order = uniforms(mix(self.seed, _KEY), numbers, target.shape[1]).argsort(1)
        errors: Tensor = (self(x, order).float() - target).square().mean(2)
        return errors.gather(1, order[:, self.seen(order.shape[1]) :]).mean(1)


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return fixed positions, (rows * columns, width): sines and cosines of both coordinates, as the released code."""
    rates = 1 / 10_000 ** (torch.arange(width // 4) / (width / 4))
    down, across = (torch.arange(side)[:, None] * rates for side in (rows, columns))
    halves = [torch.cat((angles.sin(), angles.cos()), 1) for angles in (across, down)]
    return torch.cat((halves[0].expand(rows, -1, -1), halves[1][:, None].expand(-1, columns, -1)), 2).flatten(0, 1)
