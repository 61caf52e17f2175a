# Written by `python -m satlib.tangle` from chapters/scenes.md: edit that.
# chapters/scenes.md: Scenes: pictures whose truth we know
"""Drawn scenes with a mask for every thing, and folders of them."""

from contextlib import suppress
from functools import lru_cache
from itertools import count, pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from satlib.files import (
    LOCK,
    changes,
    digest,
    file_digests,
    hold,
    make_folder,
    read_if_there,
    replacing,
    tidy,
    write_json,
    write_text,
)
from satlib.stickers import COLOURS, MARGIN, SHAPES, blend, paint, smooth, sticker
from satlib.storybook import GROUNDS, KINDS, Dice, make_scene

SIDE = 256  # of a picture, in pixels


# chapters/scenes.md: Sky, hills and ground
LAND = {  # the range of heights, in pixels from the top: of the hills, of the ground
    "grass": ((96, 136), (136, 146)),
    "sand": ((119, 121), (136, 146)),
    "snow": ((80, 140), (136, 146)),
    "sea": ((124, 158), (142, 142)),
}
DETAILS = {  # shape, colour, how many, their size, and the heights they lie between
    "sky": [("sun", "#ffeeb4", 1, 46, 0, 26), ("cloud", "#ecf4fc", 3, 72, -24, 50)],
    "grass": [("tuft", "#54963e", 12, 13, 150, 246), ("daisy", "#fff", 8, 8, 160, 248)],
    "sand": [("dot", "#ce9e66", 9, 5, 148, 250), ("shell", "#fa9e8c", 4, 9, 160, 240)],
    "snow": [("dot", "#fff", 60, 5, 0, 252), ("tuft", "#9fb2cc", 4, 10, 160, 246)],
    "sea": [("wave", "#c4ecf4", 9, 22, 138, 236), ("dot", "#a0dcec", 9, 5, 160, 250)],
}


# chapters/scenes.md: Sky, hills and ground
@lru_cache
def gradient(top, bottom, start):
    """Return a picture that fades from `top` to `bottom`, from height `start` down."""
    steps = [max(0, 100 * (y - start) // (SIDE - start)) for y in range(SIDE)]
    rows = [[blend(top, bottom, percent)] for percent in steps]
    return Image.fromarray(np.array(rows, dtype=np.uint8)).resize((SIDE, SIDE))


def relief(low, high, dice):
    """Return the mask of land whose crest wanders between two heights."""
    crest = [(60 * i - 90, dice.between(low, high)) for i in range(8)]
    land = smooth(np.array([(-90, 2 * SIDE), *crest, (330, 2 * SIDE)]) * 2)
    mask = Image.new("L", (2 * SIDE, 2 * SIDE))
    ImageDraw.Draw(mask).polygon(land.flatten().tolist(), fill=255)
    return mask.reduce(2)


# chapters/scenes.md: Sky, hills and ground
def scatter(image, zone, dice):
    """Strew the details of a zone over a picture."""
    for shape, colour, number, size, top, bottom in DETAILS[zone]:
        for _ in range(number):
            detail = paint(shape, colour, dice.between(size * 3 // 5, size))
            corner = dice.between(-size, SIDE - 8), dice.between(top, bottom) - MARGIN
            image.paste(detail, corner, detail)


def backdrop(ground, seed):
    """Return a picture of a ground (a key of GROUNDS) with sky and hills, by a seed."""
    dice = Dice(f"backdrop {seed}")
    top, horizon, hills, far, near = GROUNDS[ground]
    image = gradient(top, horizon, 0).copy()
    scatter(image, "sky", dice)
    image.paste(hills, mask=relief(*LAND[ground][0], dice))
    image.paste(gradient(far, near, 136), mask=relief(*LAND[ground][1], dice))
    scatter(image, ground, dice)
    return image


# chapters/scenes.md: The picture and its masks
SHADOW = Image.radial_gradient("L").point(lambda v: max(0, 110 - v * 110 // 180))


def draw(scene):
    """Return a scene's PIL image, and for each object the mask of what is visible.

    The masks are boolean arrays (256, 256), in the order of `scene.objects`.
    """
    image, numbers = backdrop(scene.ground, scene.seed), Image.new("L", (SIDE, SIDE))
    for number, thing in reversed(list(enumerate(scene.objects, start=1))):
        if KINDS[thing.name].place == "on" and thing.y > 140:
            shade = SHADOW.resize((thing.size, thing.size // 5))
            foot = thing.y + thing.size // 2 - thing.size // 9
            image.paste("#1e283c", (thing.x - thing.size // 2, foot), shade)
        layer = sticker(thing.name, COLOURS[thing.colour], thing.size, thing.mirrored)
        corner = thing.x - layer.width // 2, thing.y - layer.height // 2
        image.paste(layer, corner, layer)
        solid = layer.getchannel("A").point([0] * 128 + [255] * 128)
        numbers.paste(number, corner, solid)
    numbers = np.asarray(numbers)
    return image, [numbers == i + 1 for i in range(len(scene.objects))]


# chapters/scenes.md: Is the caption true?
def named_objects(words):
    """Return (colour, name, i, i + 1) where word i is a colour, word i + 1 a thing."""
    pairs = enumerate(pairwise(words))
    return [(c, n, i, i + 1) for i, (c, n) in pairs if c in COLOURS and n in KINDS]


def colour_accuracy(captions, scenes):
    """Return the share of the coloured things named that are there, and their number.

    `captions` are lists of words, one for each of `scenes` (ValueError if not).
    """
    hits = [
        (colour, name) in scene.layout
        for words, scene in zip(captions, scenes, strict=True)
        for colour, name, *_ in named_objects(words)
    ]
    return sum(hits) / max(1, len(hits)), len(hits)


# chapters/scenes.md: A folder like any other
def distinct_scenes(n, seed=0):
    """Return n scenes of different layouts, of the seeds from `seed` million on."""
    scenes = {}
    for number in count(seed * 10**6):
        if len(scenes) == n:
            return list(scenes.values())
        scene = make_scene(number)
        scenes.setdefault(scene.layout, scene)


# chapters/scenes.md: A folder like any other
def _save(path, picture):
    with replacing(path) as part:
        picture.save(part, "PNG", compress_level=1)


def _is_picture(path):
    with suppress(Exception), Image.open(path) as image:  # any, as it is damaged
        image.load()
        return image.size == (SIDE, SIDE)
    return False


def fill(folder, scenes, anew=False):
    """Write pictures, masks, captions and lists; pictures that are there stay.

    Unless all are to be drawn `anew`.
    """
    images, masks = make_folder(folder / "images"), make_folder(folder / "masks")
    names = [f"scene_{i:05d}.png" for i in range(len(scenes))]
    lines = []
    for done, (name, scene) in enumerate(zip(names, scenes, strict=True), start=1):
        if anew or not (_is_picture(images / name) and _is_picture(masks / name)):
            image, visible = draw(scene)
            numbers = sum(i * mask for i, mask in enumerate(visible, start=1))
            _save(images / name, image)
            _save(masks / name, Image.fromarray(numbers.astype(np.uint8)))
        lines += [f"{name}#{k}\t{line}\n" for k, line in enumerate(scene.captions)]
        if done % 500 == 0:
            print(f"{done} of {len(scenes)} scenes drawn")
    write_text(folder / "captions.txt", "".join(lines))
    cuts = [0, int(0.8 * len(names)), int(0.9 * len(names)), len(names)]
    for split, (a, b) in zip(("train", "val", "test"), pairwise(cuts), strict=True):
        write_text(folder / f"{split}.txt", "".join(f"{name}\n" for name in names[a:b]))


# chapters/scenes.md: A folder like any other
MANIFEST = "scenes.json"


def make_plan(n, seed):
    """Return what a folder is to hold; `world` changes with what is drawn and told."""
    told = [(scene, scene.captions) for scene in map(make_scene, range(100))]
    world = digest(repr([COLOURS, SHAPES, GROUNDS, DETAILS, LAND, told]))
    return {"n": n, "seed": seed, "world": world[:8]}


def check_plan(folder, plan):
    """Return a folder's manifest, {} without one or if it is damaged.

    Raises ValueError where the folder holds anything but the scenes of the plan.
    """
    found, manifest = read_if_there(folder / MANIFEST), folder / MANIFEST
    names = [path.name for path in folder.glob("*")]
    ours = [name for name in names if name.startswith(LOCK) or name.endswith(".part")]
    if not manifest.exists() and len(ours) < len(names):
        raise ValueError(f"{folder} is not empty: choose another folder for the scenes")
    if found and (names := changes(found, plan)):
        name = names[0]
        raise ValueError(
            f"{folder} holds scenes with {name}={found.get(name)}, not {plan[name]}: "
            "choose another folder, or delete this one"
        )
    return found


def seal(folder):
    """Return the digest of all files of a folder of scenes but its manifest."""
    paths = [folder / f"{name}.txt" for name in ("captions", "train", "val", "test")]
    paths += sorted(folder.glob("images/scene_*.png"))
    paths += sorted(folder.glob("masks/scene_*.png"))
    return digest(file_digests(paths))


# chapters/scenes.md: A folder like any other
def write_scenes(folder, n, seed=0):
    """Write n scenes with captions, masks and lists of splits; return the folder.

    A complete folder is left as it is, an interrupted or damaged one completed. Raises
    ValueError where the folder holds anything else, OSError where another run is at
    work in it.
    """
    folder, plan = Path(folder), make_plan(n, seed)
    if check_plan(folder, plan).get("complete") and _is_whole(folder):
        tidy(folder)
        return folder
    with hold(folder, brief=True):
        found = check_plan(folder, plan)
        if found.get("complete") and _is_whole(folder):  # drawn while we waited
            return folder
        anew = (folder / MANIFEST).exists() and found.get("complete", True)
        if anew:
            print(f"{folder}: not all is as it was written; all is drawn again")
        write_json(folder / MANIFEST, plan | {"complete": False})
        fill(folder, distinct_scenes(n, seed), anew)
        written = plan | {"complete": True, "written": seal(folder)}
        write_json(folder / MANIFEST, written)
    return folder


def _is_whole(folder):
    return read_if_there(folder / MANIFEST).get("written") == seal(folder)


# chapters/scenes.md: A folder like any other
def load_scenes(folder):
    """Return the `Scene`s of a folder, in the order of its files.

    Raises ValueError where the folder is none of ours, incomplete, or of another world.
    """
    found = read_if_there(Path(folder, MANIFEST))
    n, seed = found.get("n", 0), found.get("seed", 0)
    if changes(found, make_plan(n, seed) | {"complete": True}):
        raise ValueError(f"{folder} holds no complete scenes of this version")
    return distinct_scenes(n, seed)


def scenes_of(paths):
    """Return the `Scene` of each picture, given by paths into one folder of scenes.

    Raises ValueError where the folder is none of ours, incomplete, or of another world.
    """
    drawn = load_scenes(paths[0].parents[1])  # in the order of the file names
    return [drawn[int(path.stem.split("_")[1])] for path in paths]
