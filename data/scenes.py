"""What a generated image shows: objects with a shape, a colour, a size and a place, and perhaps a word.

Everything is drawn from (seed, split, index) alone, before any pixel, so that labels and captions cost microseconds.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

DRAWING_VERSION = 1  # raise it whenever scenes.py, shapes.py or drawing.py draws something else: caches are keyed by it

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent", "hexagon", "arrow")
COLOURS = {
    "red": (214, 38, 38),
    "orange": (243, 134, 28),
    "yellow": (247, 217, 48),
    "green": (36, 158, 62),
    "blue": (38, 84, 214),
    "purple": (136, 52, 178),
    "white": (246, 246, 244),
    "black": (22, 22, 24),
}
# Centre of the object in units of the side, (x right, y down).
POSITIONS = {
    "at the top left": (0.27, 0.27),
    "at the top": (0.5, 0.26),
    "at the top right": (0.73, 0.27),
    "on the left": (0.26, 0.5),
    "in the centre": (0.5, 0.5),
    "on the right": (0.74, 0.5),
    "at the bottom left": (0.27, 0.73),
    "at the bottom": (0.5, 0.74),
    "at the bottom right": (0.73, 0.73),
}
SIZES = {"small": (0.12, 0.15), "medium": (0.165, 0.195), "large": (0.21, 0.25)}  # radius in units of the side
_WORDS = """
    kite lamp moon fish bird tree boat leaf star rain snow wind fire sand salt milk rice corn plum pear lime mint
    rose lily fern moss wolf bear deer hare crow swan duck frog newt crab shell stone brick glass paper cloth wool
    silk drum harp bell flute clock wheel chair table spoon plate bread honey apple cloud river field house
"""
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    size: str
    position: str
    x: float  # centre and radius in units of the side
    y: float
    radius: float
    angle: float

    @property
    def phrase(self) -> str:
        return f"{self.size} {self.colour} {self.shape} {self.position}"

    @property
    def caption(self) -> str:
        return f"{_article(self.phrase)} {self.phrase}"


@dataclass(frozen=True)
class Text:
    word: str
    x: float  # centre of the word
    y: float
    height: float  # of a capital, in units of the side
    light: bool


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]  # the first gives the label
    text: Text | None

    @property
    def label(self) -> int:
        return SHAPES.index(self.things[0].shape)

    @property
    def caption(self) -> str:
        caption = " and ".join(t.caption for t in self.things)
        return caption if self.text is None else f"{caption}, with the text '{self.text.word}'"

    def as_dict(self) -> dict:
        """Plain values: what a probe is trained to read out of tokens."""
        return {"label": self.label, "caption": self.caption} | asdict(self)


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def generator_of(seed: int, split: str, index: int, part: int) -> np.random.Generator:
    """A stream of its own for every image and part of it; splits never share one."""
    entropy = (seed, {"train": 0, "val": 1}[split], index, part)
    return np.random.Generator(np.random.PCG64DXSM(np.random.SeedSequence(entropy)))


def draw_scene(*, seed: int, split: str, index: int, text_share: float) -> Scene:
    rng = generator_of(seed, split, index, part=0)
    text = None
    if rng.random() < text_share:  # the word takes the top or the bottom band, the objects keep out of it
        at_top = rng.random() < 0.5
        text = Text(
            word=WORDS[rng.integers(len(WORDS))],
            x=float(rng.uniform(0.4, 0.6)),
            y=0.1 if at_top else 0.9,
            height=float(rng.uniform(0.12, 0.15)),
            light=bool(rng.random() < 0.5),
        )
    things: list[Thing] = []
    wanted = 1 + int(rng.random() < 0.4)
    for _ in range(20):
        if len(things) == wanted:
            break
        thing = _draw_thing(rng, small=bool(things))
        if things and thing.colour == things[0].colour:
            continue
        if all(math.hypot(thing.x - o.x, thing.y - o.y) > 1.1 * (thing.radius + o.radius) for o in things) and (
            text is None or abs(thing.y - text.y) > thing.radius + 0.1
        ):
            things.append(thing)
    if not things:  # a word and a large object rarely leave room for each other
        return Scene(things=(_draw_thing(rng, small=False),), text=None)
    return Scene(things=tuple(things), text=text)


def _draw_thing(rng: np.random.Generator, *, small: bool) -> Thing:
    sizes = ("small",) if small else tuple(SIZES)
    size = sizes[rng.integers(len(sizes))]
    position = tuple(POSITIONS)[rng.integers(len(POSITIONS))]
    shape = SHAPES[rng.integers(len(SHAPES))]
    x, y = (float(c + rng.uniform(-0.03, 0.03)) for c in POSITIONS[position])
    return Thing(
        shape=shape,
        colour=tuple(COLOURS)[rng.integers(len(COLOURS))],
        size=size,
        position=position,
        x=x,
        y=y,
        radius=float(rng.uniform(*SIZES[size])),
        # A square turned by more would be a diamond, a heart upside down no heart; an arrow may point anywhere.
        angle=float(rng.uniform(0, 2 * math.pi) if shape in ("arrow", "crescent") else rng.uniform(-0.25, 0.25)),
    )
