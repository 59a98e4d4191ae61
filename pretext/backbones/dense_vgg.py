"""VGG at a finer grid: its last pools keep the resolution, what follows is dilated, no weight changes.

Method: the "a trous" form of a classifier (Chen et al., *Semantic Image Segmentation with Deep Convolutional Nets and
Fully Connected CRFs*, ICLR 2015); conv5 and conv6 of the paper's own net are dilated likewise.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DensePool(nn.Module):
    """The maximum of each place and its neighbors below and to the right: a 2 x 2 pool at every place.

    Every ``dilation * 2``-th place has what the pool that halves would have given. Beyond the image there is nothing.

    Args:
        dilation: places to that neighbor.
    """

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        padded = F.pad(x, (0, self.dilation, 0, self.dilation), value=-torch.inf)
        return F.max_pool2d(padded, 2, stride=1, dilation=self.dilation)


def keep_stride(net: nn.Module, stride: int) -> None:
    """Let no pool of a timm VGG, in place, go beyond a stride: 1, 2, 4, 8 or 16."""
    reached, dilation = 1, 1
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            assert module.kernel_size == module.stride == 2
            if reached < stride:
                reached *= 2
                continue
            net.set_submodule(name, DensePool(dilation))
            dilation *= 2
        elif isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.dilation = (dilation, dilation)
            module.padding = tuple(dilation * (side // 2) for side in module.kernel_size)
