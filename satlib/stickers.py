# Written by `python -m satlib.tangle` from chapters/stickers.md: edit that.
# chapters/stickers.md: Stickers: drawing a picture-book world
"""The pieces of the picture-book world: one small picture for every thing."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from PIL.ImageColor import getrgb

MARGIN, FINE = 8, 4  # pixels around a shape; how many times too large it is painted


# chapters/stickers.md: Colours
COLOURS = {
    "red": "#d62828",
    "orange": "#f78a18",
    "yellow": "#fad62d",
    "green": "#349e42",
    "blue": "#265cd0",
    "purple": "#873caf",
    "white": "#faf8f4",
    "black": "#323038",
    "brown": "#804e2a",
}


def blend(colour, other, percent):
    """Mix two colours "#rrggbb", with `percent` of the other; return (r, g, b)."""
    pairs = zip(getrgb(colour), getrgb(other), strict=True)
    return tuple((a * (100 - percent) + b * percent) // 100 for a, b in pairs)


# chapters/stickers.md: A language for shapes
TINTS = {
    "w": "#ffffff",  # white
    "k": "#281e2a",  # ink
    "c": "#fff0cd",  # cream
    "p": "#f596a0",  # pink
    "y": "#ffcd46",  # yellow
    "a": "#f5962d",  # amber
    "g": "#4a8c3e",  # leaf green
    "s": "#bee2f5",  # sky, in window panes
    "t": "#855836",  # timber
    "f": "#d8f0f6",  # foam
}


# chapters/stickers.md: A language for shapes
SHAPES = {
    "cat": """d s 62 92 90 99 103 74 90 44 80 54 90 70 82 84 62 80;
        m s 24 99 20 70 34 44 66 44 80 70 76 99; m o 24 82 76 100; m p 25 40 25 4 48 18;
        m p 75 40 75 4 52 18; p p 30 26 30 13 41 19; p p 70 26 70 13 59 19;
        m o 21 11 79 59; l o 37 62 63 96; l o 33 86 49 99; l o 51 86 67 99;
        w o 30 24 46 44; w o 54 24 70 44; k o 36 28 44 42; k o 56 28 64 42;
        w o 38 30 41 34; w o 58 30 61 34; l o 40 40 60 55; p p 45 42 55 42 50 48;
        k l 1 43 49 46 52 50 49 54 52 57 49; k l 1 32 46 14 43; k l 1 32 49 14 51;
        k l 1 68 46 86 43; k l 1 68 49 86 51""",
    "dog": """m s 12 60 0 44 2 26 10 26 10 38 24 50; d s 24 70 22 98 36 98 36 74;
        d s 58 70 58 98 72 98 70 74; m s 10 48 10 84 40 76 74 82 82 40 56 44;
        m s 8 66 12 99 27 99 28 74; m s 66 66 68 99 83 99 82 66; l o 12 92 28 99;
        l o 68 92 84 99; l s 26 76 60 76 70 80 40 82;
        m s 54 14 50 50 66 58 82 56 98 50 102 36 86 32 80 8;
        l s 74 40 74 56 90 54 102 46 98 36 84 36;
        d s 54 10 40 34 46 58 58 52 66 30 64 12; k o 91 33 101 43;
        k l 1 78 47 84 52 91 51 95 46; w o 68 20 80 35; k o 72 23 79 33;
        w o 74 24 77 28; y s 53 54 78 58 76 64 52 60""",
}


# chapters/stickers.md: A language for shapes
SHAPES |= {
    "balloon": """t l 1 34 62 42 82; t l 1 66 62 58 82;
        m s 34 68 8 50 4 14 30 -4 70 -4 96 14 92 50 66 68;
        l s 40 68 24 44 26 14 42 -2 34 -2 16 18 18 46;
        l s 60 68 76 44 74 14 58 -2 66 -2 84 18 82 46; d p 36 62 64 62 61 68 39 68;
        t s 40 80 60 80 60 98 40 98; c p 40 84 60 84 60 87 40 87""",
    "bird": """d s 22 60 -2 46 -2 72 24 72; d s 40 50 34 4 52 0 70 46;
        m s 14 62 40 36 66 38 84 34 90 56 76 84 40 88;
        l s 40 74 60 60 84 58 72 84 44 86; m o 62 24 94 58; a p 90 36 105 44 89 50;
        w o 76 32 87 45; k o 80 34 86 43; w o 82 35 84 38;
        d s 36 54 10 24 12 6 34 12 58 34 66 60 52 66; l l 2 22 18 46 48;
        l l 2 34 20 54 48""",
    "fish": """d s 40 50 6 8 -6 20 8 50 -6 80 6 92; d s 36 28 50 4 74 20 64 36;
        d s 44 74 48 96 66 86 60 68; m s 18 50 36 20 70 14 102 44 102 56 70 86 36 80;
        l s 66 24 76 50 66 78 74 78 86 50 74 22;
        l s 44 28 54 50 44 74 51 76 62 50 51 26; d s 60 48 46 42 46 64 62 58;
        w o 80 32 94 48; k o 85 35 93 46; w o 87 36 90 40; k l 2 84 60 89 62 95 59""",
}


# chapters/stickers.md: A language for shapes
SHAPES |= {
    "whale": """s l 3 60 34 60 20 50 10; s l 3 60 20 70 10;
        d s 20 66 -2 44 0 30 10 36 18 40 24 30 34 32 28 60;
        m s 6 56 22 58 36 34 68 30 98 36 102 80 78 98 40 96 14 82;
        l s 40 92 60 78 94 72 100 78 82 96 60 98; d s 58 76 46 84 50 100 68 88;
        w o 72 48 83 60; k o 76 50 82 58; w o 78 51 80 54;
        k l 2 76 68 82 73 91 72 97 67; f o 8 91 46 101; f o 38 93 70 103;
        f o 62 91 98 101""",
}


# chapters/stickers.md: A language for shapes
SHAPES |= {
    "ball": """m o 4 4 96 96; l s 50 50 34 34 26 6 50 2 56 8 54 30;
        l s 50 50 74 48 94 46 96 64 86 76 66 64; d l 2 50 50 71 30 77 14;
        l s 50 50 44 76 44 94 26 92 16 80 34 64; d l 2 50 50 66 76 68 90;
        d l 2 50 50 24 50 6 38; d o 43 43 57 57; w o 24 18 38 30""",
    "car": """m s 20 62 26 32 40 28 64 28 74 34 84 62;
        s s 28 60 32 38 40 36 48 36 48 60; s s 53 60 53 36 62 36 70 40 76 60;
        m s 0 92 0 62 12 56 60 56 90 58 102 66 100 94; l p 6 72 94 72 94 76 6 76;
        y o 90 64 99 74; d p 3 86 97 86 97 91 5 91; k o 12 74 38 100; k o 62 74 88 100;
        c o 19 81 31 93; c o 69 81 81 93; d l 1 50 60 50 86; k l 2 54 67 60 67""",
    "boat": """t p 48 4 48 74 52 74 52 4; m p 54 8 54 62 90 62;
        l p 54 26 66 26 78 44 54 44; d p 45 18 45 62 18 62;
        m s 2 66 98 66 98 72 84 98 18 98 2 72; l p 6 72 94 72 91 77 9 77;
        w o 26 80 35 89; w o 46 80 55 89; w o 66 80 75 89; f o 6 92 38 102;
        f o 32 94 68 104; f o 62 92 94 102""",
}


# chapters/stickers.md: A language for shapes
SHAPES |= {
    "umbrella": """t p 48 8 47 99 51 99 52 8;
        m s 0 50 8 10 40 6 60 6 92 10 100 50 84 40 72 54 50 40 28 54 16 40;
        l s 50 8 34 20 30 48 50 42 70 48 66 20; d o 47 2 53 9""",
    "house": """t p 68 6 68 36 80 36 80 6; m p 12 42 12 99 88 99 88 42;
        d p 0 46 22 14 78 14 100 46; d p 12 46 12 52 88 52 88 46;
        t p 44 70 44 99 58 99 58 70; t o 44 63 58 77; y o 54 82 57 85;
        w p 17 58 17 78 36 78 36 58; s p 19 60 19 76 34 76 34 60; w l 2 26 60 26 76;
        w p 65 58 65 78 84 78 84 58; s p 67 60 67 76 82 76 82 60; w l 2 74 60 74 76;
        w l 2 19 68 34 68; w l 2 67 68 82 68; l l 2 16 28 84 28; l l 2 10 37 90 37""",
    "tree": """t p 44 50 42 88 34 99 66 99 58 88 56 50; d o 4 38 38 70;
        d o 62 38 96 70; d o 30 46 72 76; m o 2 24 40 62; m o 60 24 98 62;
        m o 12 6 54 46; m o 44 2 86 46; m o 26 20 76 66; l o 22 12 38 22;
        l o 54 8 70 17; l o 9 34 19 42; l o 80 32 90 40; l o 42 32 58 41""",
    "flower": """g p 48 50 47 99 53 99 52 50; g s 50 92 24 84 18 66 40 70;
        g s 50 90 76 82 84 64 60 68; m o 36 2 64 30; m o 56 12 84 40; m o 56 34 84 62;
        m o 36 42 64 70; m o 16 34 44 62; m o 16 12 44 40; d o 34 20 66 52;
        y o 37 23 63 49; a o 44 30 48 34; a o 52 30 56 34; a o 48 38 52 42""",
}


# chapters/stickers.md: A language for shapes
SHAPES |= {
    "sun": "l o 0 0 100 100; m o 14 14 86 86",
    "cloud": """m o 0 44 40 84; m o 50 30 90 80; m o 66 48 100 84;
        m o 10 64 90 88; l o 20 18 64 74; l o 54 34 86 72; l o 8 50 34 76""",
    "tuft": "m p 30 99 10 40 42 99; m p 42 99 50 10 58 99; m p 58 99 92 36 70 99",
    "daisy": "m o 35 0 65 99; m o 0 35 99 65; y o 34 34 66 66",
    "shell": "m s 10 80 20 20 80 20 90 80; d l 6 50 30 50 74; d l 6 34 34 40 74",
    "wave": "m s 0 60 25 30 50 60 75 30 100 60 75 44 50 74 25 44",
    "dot": "m o 10 10 90 90",
}


# chapters/stickers.md: A language for shapes
@lru_cache
def parts(name):
    """Return a shape as a list of tint, form, width of the pen and points (n, 2)."""
    result = []
    for part in SHAPES[name].split(";"):
        tint, form, *numbers = part.split()
        numbers = [int(number) for number in numbers]
        width = numbers.pop(0) if form == "l" else 0
        result.append((tint, form, width, np.array(numbers).reshape(-1, 2)))
    return result


# chapters/stickers.md: Round corners without a sine
def smooth(points):
    """Cut the corners of a closed polygon (n, 2) three times: (8 n, 2).

    Each cut replaces a corner by two points (Chaikin, 1974).
    """
    points = points * 64  # so that the quarters stay whole numbers
    for _ in range(3):
        ahead = np.roll(points, -1, axis=0)
        points = np.stack([3 * points + ahead, points + 3 * ahead], axis=1) // 4
        points = points.reshape(-1, 2)
    return points // 64


# chapters/stickers.md: Paint, light and outline
@lru_cache(512)
def paint(name, colour, size, mirrored=False):
    """Paint a shape `size` pixels wide, flat; return RGBA of side size + 2 · MARGIN."""
    side, unit = (size + 2 * MARGIN) * FINE, size * FINE
    image = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(image)
    tints = {"d": blend(colour, "#28143c", 30), "l": blend(colour, "#fffaeb", 50)}
    tints |= TINTS | {"m": colour}
    for tint, form, width, points in parts(name):
        points = [100, 0] + points * [-1, 1] if mirrored else points
        points = points * unit // 100 + MARGIN * FINE
        corners = (smooth(points) if form == "s" else points).flatten().tolist()
        if form == "o":
            box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
            pen.ellipse(box, tints[tint])
        elif form == "l":
            pen.line(corners, tints[tint], width * unit // 100, "curve")
        else:
            pen.polygon(corners, tints[tint])
    return image.reduce(FINE)


# chapters/stickers.md: Paint, light and outline
def sticker(name, colour, size, mirrored=False):
    """Paint a shape with light from the top left and an outline; return RGBA."""
    flat = paint(name, colour, size, mirrored)
    alpha, step = flat.getchannel("A"), size // 14
    soft = np.asarray(alpha.filter(ImageFilter.BoxBlur(size // 12)), dtype=np.int16)
    light = np.roll(soft, (-step, -step), (0, 1)) - np.roll(soft, (step, step), (0, 1))
    pixels = np.array(flat, dtype=np.int16)
    pixels[..., :3] += light[..., None] // 5
    outline = Image.new("RGBA", flat.size, blend(colour, "#1e1028", 75))
    outline.putalpha(alpha.filter(ImageFilter.MaxFilter(3)))  # one pixel fatter
    lit = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return Image.alpha_composite(outline, lit)
