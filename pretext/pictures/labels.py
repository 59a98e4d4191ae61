"""Labels as data sets give them, checked before anything is judged by them."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError


def checked_labels(name: str, labels: Iterable[int | None], classes: Sequence[str]) -> NDArray[np.int64]:
    """Labels as int64 (N,), every one of which stands for one of ``classes``.

    Args:
        name: of the source, for the error.
        labels: None, or any negative number, where a picture has none (Hugging Face's test parts have -1).
        classes: their names.

    Raises:
        UserError: some pictures have no label, or one without a name.
    """
    array = np.array([-1 if label is None else label for label in labels], np.int64)
    without = int((array < 0).sum())
    if without:
        raise UserError(f"{name}: {without:,} of {len(array):,} pictures have no label; name a part that has them")
    if len(array) and array.max() >= len(classes):
        raise UserError(f"{name}: a label is {array.max()}, and there are {len(classes)} classes; is the set whole?")
    return array
