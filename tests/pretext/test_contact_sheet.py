"""Contact sheets: every image whole, the same white margin left and right."""

import numpy as np
import pytest
from PIL import Image

from pretext.contact_sheet import contact_sheet


@pytest.mark.parametrize("across", [1, 2, 3, 9])
def test_images_are_whole_and_margins_even(across: int) -> None:
    rows = [[Image.new("RGB", (20, 20), "black")] * 2 for _ in range(4)]
    sheet = np.asarray(contact_sheet(rows, ("one", "two"), cell=20, across=across).convert("L"))
    dark = (sheet == 0)[22:]  # below the titles
    assert dark.sum() == 4 * 2 * 20 * 20
    columns = np.flatnonzero(dark.any(0))
    assert columns[0] == sheet.shape[1] - 1 - columns[-1] > 0
    assert len(columns) == 40 * min(across, 4) and not dark[-1].any()
