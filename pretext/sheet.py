"""Contact sheets: pictures side by side, with a title over every column."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

_GAP = 6
_TITLE = 22


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], cell: int | tuple[int, int], across: int = 1
) -> Image.Image:
    """One picture of many.

    Args:
        rows: each holds one picture per title.
        titles: of the columns.
        cell: side of the square, or width and height, that every picture is fitted into, pixels; small ones are
            enlarged.
        across: how many rows stand side by side.

    Returns:
        RGB, white ground.
    """
    assert rows and all(len(row) == len(titles) for row in rows)
    across = min(across, len(rows))
    wide, high = cell if isinstance(cell, tuple) else (cell, cell)
    block = (wide + _GAP) * len(titles) + _GAP
    lines = -(-len(rows) // across)
    sheet = Image.new("RGB", (block * across, _TITLE + (high + _GAP) * lines + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for place, row in enumerate(rows):
        line, left = place // across, (place % across) * block + _GAP
        for column, (picture, title) in enumerate(zip(row, titles, strict=True)):
            fitted = ImageOps.contain(picture, (wide, high), Image.Resampling.LANCZOS)
            x, y = left + column * (wide + _GAP), _TITLE + line * (high + _GAP)
            if line == 0:
                draw.text((x + wide / 2, _TITLE / 2), title, fill="#444", font=font, anchor="mm")
            sheet.paste(fitted, (x + (wide - fitted.width) // 2, y + (high - fitted.height) // 2))
    return sheet
