"""Contact sheets: images side by side, with a title over every column."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

_GAP = 6
_TITLE = 22


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], cell: int | tuple[int, int], across: int = 1
) -> Image.Image:
    """Arrange many images in one.

    Args:
        rows: each holds one image per title.
        titles: of the columns.
        cell: side of the square, or width and height, that every image is fitted into, pixels; small ones are
            enlarged. A line is as high as its highest image.
        across: how many rows stand side by side.

    Returns:
        RGB, white ground.
    """
    assert rows and all(len(row) == len(titles) for row in rows)
    across = min(across, len(rows))
    wide, high = cell if isinstance(cell, tuple) else (cell, cell)
    fitted = [[ImageOps.contain(image, (wide, high), Image.Resampling.LANCZOS) for image in row] for row in rows]
    lines = [fitted[start : start + across] for start in range(0, len(rows), across)]
    heights = [max(image.height for row in line for image in row) for line in lines]
    block = (wide + _GAP) * len(titles) + _GAP
    sheet = Image.new("RGB", (block * across, _TITLE + sum(heights) + _GAP * (len(lines) + 1)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    top = _TITLE
    for line, height in zip(lines, heights, strict=True):
        for place, row in enumerate(line):
            for column, image in enumerate(row):
                left = place * block + _GAP + column * (wide + _GAP)
                sheet.paste(image, (left + (wide - image.width) // 2, top + (height - image.height) // 2))
        top += height + _GAP
    for place in range(across):
        for column, title in enumerate(titles):
            middle = place * block + _GAP + column * (wide + _GAP) + wide / 2
            draw.text((middle, _TITLE / 2), title, fill="#444", font=font, anchor="mm")
    return sheet
