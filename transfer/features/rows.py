"""Features as a probe reads them: rows of a matrix on disk, in memory where they fit."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretext.engine.memory import available

_SHARE = 4  # of the memory that is free, a matrix may take one part in so many
_AT_ONCE = 4096


class Rows:
    """The features of some images, by stage and pooling: float32 on the device, whatever they are stored as.

    A matrix that fits is kept on the device; a larger one is read from its file row by row.

    Args:
        matrix: (N, dims), float16 or float32, perhaps a memory map.
        device: where the rows go.
    """

    def __init__(self, matrix: NDArray[np.floating], device: torch.device) -> None:
        self._matrix, self.device = matrix, device
        fits = matrix.nbytes * _SHARE <= available(device)
        self._near = torch.from_numpy(np.array(matrix)).to(device) if fits else None

    @property
    def dims(self) -> int:
        """Of a row."""
        return int(self._matrix.shape[1])

    def __getitem__(self, indices: NDArray[np.int64]) -> Tensor:
        """(len(indices), dims), float32, on the device."""
        if self._near is not None:
            return self._near[torch.from_numpy(indices).to(self.device)].float()
        return torch.from_numpy(self._matrix[indices]).to(self.device).float()

    def chunks(self, indices: NDArray[np.int64]) -> Iterator[Tensor]:
        """The rows at ``indices``, in that order, some thousand at a time."""
        for start in range(0, len(indices), _AT_ONCE):
            yield self[indices[start : start + _AT_ONCE]]

    def statistics(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Mean and variance (of the population) of every feature over some images: (dims,) each, float64.

        Pieces are joined as Chan, Golub and LeVeque (1979) do, which loses nothing where means are large.
        """
        mean = torch.zeros(self.dims, dtype=torch.float64, device=self.device)
        squares, count = torch.zeros_like(mean), 0
        for chunk in self.chunks(indices):
            variance, center = (part.double() for part in torch.var_mean(chunk, 0, correction=0))
            moved, both = center - mean, count + len(chunk)
            squares += variance * len(chunk) + moved.square() * (count * len(chunk) / both)
            mean += moved * (len(chunk) / both)
            count = both
        return mean, squares / count
