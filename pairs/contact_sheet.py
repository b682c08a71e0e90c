"""Contact sheets: rows of pictures on white, with optional captions."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_LINE_HEIGHT = 26  # pixels
_FONT_SIZE = 13


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    side: int,
    gap: int = 4,
    captions: Sequence[Sequence[str]] | None = None,
    titles: Sequence[str] | None = None,
) -> Image.Image:
    """Compose pictures into one sheet of rows.

    Args:
        rows: at least one picture in all; rows may differ in length.
        side: width and height to which each picture is resized, in pixels.
        gap: distance between pictures in pixels.
        captions: for each row, one text per picture, drawn above it. A long text continues above the next
            pictures up to one that has a text of its own, so neighbours can share one: give it to the first and ""
            to the others. What does not fit is cut, and ends in "…".
        titles: for each row, a text above its captions, cut to the sheet's width.
    """
    title = _LINE_HEIGHT if titles else 0
    above = title + (_LINE_HEIGHT if captions else 0)
    columns = max(map(len, rows))
    size = columns * (side + gap) - gap, len(rows) * (above + side + gap) - gap
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for row, pictures in enumerate(rows):
        y = row * (above + side + gap)
        if titles:
            pen.text((1, y + 6), _cut(titles[row], size[0] - 1, font), fill="black", font=font)
        for column, picture in enumerate(pictures):
            x = column * (side + gap)
            if captions and captions[row][column]:
                others = captions[row][column + 1 : len(pictures)]
                shared = 1 + next((number for number, text in enumerate(others) if text), len(others))
                caption = _cut(captions[row][column], shared * (side + gap) - gap, font)
                pen.text((x + 1, y + title + 6), caption, fill="black", font=font)
            sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, y + above))
    return sheet


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a text to `width` pixels; a shortened text ends in "…"."""
    if font.getlength(text) <= width:
        return text
    end = next((end for end in range(len(text), 0, -1) if font.getlength(text[:end].rstrip() + "…") <= width), 0)
    return text[:end].rstrip() + "…"
