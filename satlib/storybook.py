# Written by `python -m satlib.tangle` from chapters/storybook.md: edit that.
# chapters/storybook.md: Storybook: what a picture shows, and how to say it
"""What the pictures of the picture-book world show, and five captions for each."""

from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import NamedTuple

import numpy as np
from PIL.ImageColor import getrgb

from satlib.stickers import COLOURS


# chapters/storybook.md: What belongs where
class Kind(NamedTuple):
    """What a thing does, where, and how large it is (pixels)."""

    place: str
    verb: str
    size: int
    foot: int  # the height of its foot in the picture
    seat: int = 0  # where others sit, in percent of its size from its upper edge


# chapters/storybook.md: What belongs where
KINDS = {
    "cat": Kind("on", "sits", 92, 230),
    "dog": Kind("on", "stands", 96, 230),
    "ball": Kind("on", "lies", 86, 230),
    "tree": Kind("on", "stands", 112, 222),
    "house": Kind("on", "stands", 108, 224, seat=16),
    "car": Kind("on", "stands", 108, 230, seat=29),
    "flower": Kind("on", "grows", 90, 232),
    "umbrella": Kind("on", "stands", 106, 226),
    "boat": Kind("on", "sails", 108, 198),
    "whale": Kind("in", "swims", 108, 206, seat=35),
    "fish": Kind("in", "swims", 86, 234),
    "bird": Kind("above", "flies", 92, 134),
    "balloon": Kind("above", "floats", 100, 142),
}


# chapters/storybook.md: What belongs where
SKY = ["bird", "balloon"]
HOME = {
    "grass": ["cat", "dog", "ball", "tree", "house", "car", "flower"],
    "sand": ["cat", "dog", "ball", "house", "car", "umbrella"],
    "snow": ["cat", "dog", "ball", "tree", "house", "car"],
    "sea": ["boat", "whale", "fish"],
}


# chapters/storybook.md: What belongs where
GROUNDS = {  # the sky above and at the horizon, hills, the ground far away and near
    "grass": ("#78bef0", "#def2fa", "#8cc496", "#96cd60", "#60a846"),
    "sand": ("#6ec8ec", "#e2f6f8", "#46aac8", "#f6e4b8", "#e8ca94"),
    "snow": ("#8cacd8", "#ece8f0", "#a4bcdc", "#f8faff", "#d2e0f2"),
    "sea": ("#96cef6", "#ffeeda", "#8cc4b4", "#54bad2", "#16609c"),
}


# chapters/storybook.md: What belongs where
@lru_cache
def fitting_colours(name, ground):
    """List the colours of a thing that differ enough from what is behind it."""
    behind = GROUNDS[ground][:2] if name in SKY else GROUNDS[ground][3:]
    behind = np.array([getrgb(colour) for colour in behind])
    far = {c: ((behind - getrgb(rgb)) ** 2).sum(1).min() for c, rgb in COLOURS.items()}
    return [colour for colour, distance in far.items() if distance >= 90**2]


# chapters/storybook.md: Scene and thing
@dataclass(frozen=True)
class Thing:
    """An object of a scene; x and y are its centre, size its width, all in pixels."""

    name: str
    colour: str
    x: int
    y: int
    size: int
    mirrored: bool

    @property
    def phrase(self):
        """The thing with its article, such as "an orange ball"."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.name}"


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn."""

    seed: int
    ground: str
    relation: str
    objects: tuple[Thing, ...]

    @property
    def layout(self):
        """What the captions can tell: two scenes of equal layout say the same."""
        things = ((thing.colour, thing.name) for thing in self.objects)
        return self.ground, self.relation, *things

    @property
    def captions(self):
        """Five sentences that describe the scene."""
        words = {}
        for key, thing in zip("ABC", self.objects, strict=False):
            kind = KINDS[thing.name]
            words |= {key: thing.phrase, f"does_{key}": kind.verb}
            words |= {f"at_{key}": f"{kind.place} the {self.ground}"}
        lines = GRAMMAR[self.relation].format(**words).split(";")
        lines = [" ".join(line.split()) for line in lines]
        return [f"{line[0].upper()}{line[1:]}." for line in lines]


# chapters/storybook.md: The grammar
TWO = """{A} {does_A} REL {B} {at_B}; {B} {does_B} {at_B} INV {A};
    {A} REL {B} {at_B}; there is {A} REL {B} {at_B}; {B} {at_B} with {A} REL it"""
GRAMMAR = {
    "alone": """{A} {does_A} {at_A}; there is {A} {at_A}; {A} {at_A};
        {at_A} {does_A} {A}; a picture of {A} {at_A}""",
    "beside": TWO.replace("REL", "left of").replace("INV", "right of"),
    "above": TWO.replace("REL", "above").replace("INV", "below"),
    "on": TWO.replace("REL", "on").replace("INV", "under"),
    "between": """{B} {does_B} between {A} and {C}; there is {B} between {A} and {C};
        {B} between {A} and {C} {at_C}; {A}, {B} and {C} {at_C};
        {A} {does_A} left of {B} and {C}""",
    "over": """{A} {does_A} above {B} and {C}; there is {A} above {B} and {C};
        {A} above {B} and {C} {at_C}; {B} and {C} {at_C} below {A};
        {B} {does_B} left of {C} below {A}""",
}


# chapters/storybook.md: A seed, a scene
class Dice(Random):
    """Chance that depends on the seed alone, on every machine and Python."""

    def pick(self, options):
        """Return one of a list."""
        return options[int(self.random() * len(options))]

    def between(self, low, high):
        """Return a whole number from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))


# chapters/storybook.md: A seed, a scene
SLOTS = {  # the kind of thing, its middle, how much lower, its size in percent
    "alone": [("any", 128, 0, 118)],
    "beside": [("low", 66, 0, 100), ("low", 190, 0, 100)],
    "above": [("high", 128, -42, 86), ("low", 128, 6, 100)],
    "on": [("rider", 128, 0, 68), ("seat", 128, 6, 110)],
    "between": [("low", 46, 0, 74), ("low", 128, 0, 74), ("low", 210, 0, 74)],
    "over": [("high", 128, -40, 82), ("low", 62, 6, 88), ("low", 194, 6, 88)],
}
OFTEN = {"alone": 2, "beside": 3, "above": 3, "on": 2, "between": 1, "over": 1}
RELATIONS = [relation for relation, weight in OFTEN.items() for _ in range(weight)]


# chapters/storybook.md: A seed, a scene
def cast(relation, ground, dice):
    """Choose the names for a relation, all different."""
    low = HOME[ground]
    pools = {"low": low, "high": SKY, "any": low + SKY, "rider": ["cat", "dog", "ball"]}
    pools["seat"] = [name for name in low if KINDS[name].seat]
    names = []
    for kind, *_ in SLOTS[relation]:
        names.append(dice.pick([name for name in pools[kind] if name not in names]))
    if relation == "above" and names[1] == "fish":
        names[0] = dice.pick(["bird", "balloon", "boat", "whale"])
    return names


# chapters/storybook.md: A seed, a scene
def arrange(relation, names, colours, dice):
    """Put things into the slots of a relation, each a little off; return `Thing`s."""
    shift = dice.between(-30, 30) if relation in ("alone", "above", "on") else 0
    things = []
    for name, colour, slot in zip(names, colours, SLOTS[relation], strict=True):
        _, x, lower, percent = slot
        size = dice.between(95, 105) * percent * KINDS[name].size // 10_000
        x += shift + dice.between(-6, 6)
        y = KINDS[name].foot + lower + dice.between(-4, 4) - size // 2
        things.append(Thing(name, colour, x, y, size, dice.pick([False, True])))
    if relation == "on":
        rider, below = things
        seat = below.y - below.size // 2 + below.size * KINDS[below.name].seat // 100
        things[0] = replace(rider, x=below.x, y=seat + 2 - rider.size // 2)
    return tuple(things)


# chapters/storybook.md: A seed, a scene
def make_scene(seed):
    """Invent the scene of a seed: the same on every machine."""
    dice = Dice(f"scene {seed}")
    ground, relation = dice.pick(list(HOME)), dice.pick(RELATIONS)
    names, colours = cast(relation, ground, dice), []
    high = fitting_colours(SKY[0], ground) if relation == "on" else COLOURS
    for name in names:
        free = [c for c in fitting_colours(name, ground) if c in high]
        colours.append(dice.pick([c for c in free if c not in colours]))
    things = arrange(relation, names, colours, dice)
    return Scene(int(seed), ground, relation, things)


# chapters/storybook.md: A seed, a scene
def simple_scene(name, colour, ground):
    """Put one thing on a ground. Raises ValueError where it does not belong."""
    if ground not in HOME or name not in HOME[ground] + SKY:
        raise ValueError(f"no {name!r} at {ground!r}; choose from {HOME} or {SKY}")
    if colour not in (colours := fitting_colours(name, ground)):
        raise ValueError(f"no {colour!r} {name} at {ground!r}; choose from {colours}")
    dice = Dice(f"{colour} {name} {ground}")
    things = arrange("alone", [name], [colour], dice)
    return Scene(dice.between(0, 999), ground, "alone", things)
