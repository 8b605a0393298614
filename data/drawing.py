"""Rendering of a scene: dead-leaves background, foreground objects, shared lighting.

Dead leaves (Matheron 1968; Lee, Mumford & Huang 2001): opaque leaves that hide one another, their radii by a power law
of exponent 3, have the statistics of natural images: scale invariance, edges, occlusion and a spectrum near 1/f.
Textures add 1/f noise and stripes to each leaf. Only numpy, so that drawing processes start at once.
"""

import math
from functools import lru_cache, reduce

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .scenes import COLOURS, Scene, Text, Thing, generator_of
from .shapes import signed_distance

NUM_LEAVES = (25, 150)  # below 256: they are numbered in bytes
NUM_TINTS = 6


def draw_picture(scene: Scene, *, seed: int, split: str, index: int, size: int) -> np.ndarray:
    """uint8 [3, size, size]."""
    rng = generator_of(seed, split, index, part=1)
    noise = [_one_over_f(rng, size) for _ in range(2)]
    light = _light(rng, size)
    picture = _leaves(rng, size, noise)
    for thing in scene.things:
        _add_thing(picture, thing, size, noise[0], rng)
    picture *= light
    if scene.text is not None:
        _add_text(picture, scene.text, size)
    picture += rng.standard_normal(picture.shape[1:], dtype=np.float32) * rng.uniform(0.0, 2.5)  # sensor noise
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _frequencies(size: int) -> np.ndarray:
    """log of |f|, the zero frequency as the lowest one."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    return np.log(np.maximum(np.hypot(fx, fy), 1 / size)).astype(np.float32)


def _one_over_f(rng: np.random.Generator, size: int) -> np.ndarray:
    """A field with amplitude 1/f^a, a in 0.8 to 1.4, mean 0 and deviation 1."""
    logs = _frequencies(size)
    spectrum = rng.standard_normal((*logs.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    spectrum *= np.exp(logs * np.float32(-rng.uniform(0.8, 1.4)))
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32, copy=False)
    return field / np.float32(math.sqrt(np.vdot(field, field) / field.size) + 1e-6)


def _light(rng: np.random.Generator, size: int) -> np.ndarray:
    """A gradient over the image, dark corners, and a warm or cool tint: [3, size, size] around 1."""
    t = np.linspace(-1, 1, size, dtype=np.float32)
    angle, strength, corners = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.18)
    x, y = t[None], t[:, None]
    along_x = 1 + strength * math.cos(angle) * x - corners / 2 * x * x
    light = along_x + (strength * math.sin(angle) * y - corners / 2 * y * y)
    warmth = rng.uniform(-0.06, 0.06)
    return light * np.array([1 + warmth, 1, 1 - warmth], dtype=np.float32)[:, None, None]


def _palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` leaf colours around a few muted hues of the image, in 0..255: [3, count]."""
    tints = np.stack([rng.random(NUM_TINTS), rng.beta(2, 3.5, NUM_TINTS) * 0.65, rng.uniform(0.15, 0.92, NUM_TINTS)], 1)
    tints[:, 0] = (tints[0, 0] + (tints[:, 0] - 0.5) * rng.uniform(0.15, 1.0)) % 1  # from one hue to all of them
    hsv = tints[rng.integers(NUM_TINTS, size=count)] + rng.normal(0, (0.02, 0.05, 0.12), (count, 3))
    hue, saturation, value = hsv[:, 0] % 1, np.clip(hsv[:, 1], 0, 0.7), np.clip(hsv[:, 2], 0.05, 0.97)
    wheel = np.abs((hue[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1  # HSV to RGB
    rgb = value[:, None] * (1 + saturation[:, None] * (np.clip(wheel, 0, 1) - 1))
    return np.ascontiguousarray(rgb.T * 255, dtype=np.float32)


def _leaves(rng: np.random.Generator, size: int, noise: list[np.ndarray]) -> np.ndarray:
    """float [3, size, size], 0..255."""
    count = int(rng.integers(*NUM_LEAVES))
    # Density r^-3 between the smallest and the largest radius: the inverse of its distribution function.
    smallest, largest, u = rng.uniform(0.02, 0.07), rng.uniform(0.3, 0.7), rng.random(count)
    radius = 1 / np.sqrt(u / largest**2 + (1 - u) / smallest**2)
    radius[-1] = 4.0  # the ground behind all of them
    centre = rng.uniform(-0.1, 1.1, (2, count)).astype(np.float32)
    aspect, angle = np.exp(rng.uniform(-0.7, 0.7, count)), rng.uniform(0, math.pi, count)
    aspect[-1] = 1.0
    colour = _palette(rng, count)
    gloss = rng.uniform(0.0, 0.4, count).astype(np.float32)  # how round a leaf looks
    grain = (rng.beta(1.2, 4, count) * 40).astype(np.float32)  # strength of its texture, in levels
    striped = (rng.uniform(8, 28, count) * (rng.random(count) < 0.15)).astype(np.float32)

    front, inward = _front_leaf(size, centre, radius, aspect, angle)
    # Everything that varies slowly is looked up at the final size, the colour (which has the edges) at the full one.
    leaf = front[::2, ::2]
    corners = (front[i::2, j::2].ravel() for i in (0, 1) for j in (0, 1))
    flat = reduce(np.add, (colour.take(corner, axis=1) for corner in corners)).reshape(3, size, size)
    texture = noise[0] * grain[leaf]
    if striped.any():
        turn, cycles = rng.uniform(0, math.pi), rng.uniform(6, 14) * 2 * math.pi
        t = np.linspace(0, cycles, size, dtype=np.float32)
        wave = t * np.float32(math.cos(turn)) + (t * np.float32(math.sin(turn)))[:, None]
        texture += np.sin(wave + np.float32(0.6) * noise[1]) * striped[leaf]
    flat *= (1 + gloss[leaf] * (inward - np.float32(0.6))) * np.float32(0.25)
    flat += texture
    return flat


@lru_cache(maxsize=1)
def _workspace(tile: int) -> np.ndarray:
    """Kept from image to image: fresh megabytes from the system would cost more than the arithmetic in them."""
    return np.empty((NUM_LEAVES[1], tile, tile), np.float32)


def _front_leaf(size: int, centre, radius, aspect, angle) -> tuple[np.ndarray, np.ndarray]:
    """The index of the leaf in front, at twice the size (without that, edges would alias), and at the final size 1 in
    the middle of that leaf to 0 at its edge. Leaf 0 is in front.

    Tile by tile: most leaves are small and touch few tiles, and what a leaf hides that fills the tile is not drawn.
    """
    side = 2 * size
    front, inward = np.empty((side, side), np.uint8), np.empty((size, size), np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    long, short = radius * np.sqrt(aspect), radius / np.sqrt(aspect)
    # (along / long)^2 + (across / short)^2 = a dx^2 + b dx dy + c dy^2
    a = (cos**2 / long**2 + sin**2 / short**2).astype(np.float32)[:, None]
    b = (2 * cos * sin * (1 / long**2 - 1 / short**2)).astype(np.float32)[:, None]
    c = (sin**2 / long**2 + cos**2 / short**2).astype(np.float32)[:, None]
    grid = ((np.arange(side) + 0.5) / side).astype(np.float32)
    dx, dy = grid - centre[0][:, None], grid - centre[1][:, None]  # [leaves, side]
    adx, bdy, cdy = a * dx * dx, b * dy, c * dy * dy
    reach = np.stack([np.hypot(long * cos, short * sin), np.hypot(long * sin, short * cos)])
    low, high = centre - reach, centre + reach
    tile = min(max(64, side // 4), side)
    workspace = _workspace(tile)
    for top in range(0, side, tile):
        ys = slice(top, top + tile)
        ends_y = [top, min(top + tile, side) - 1]
        rows = (high[1] > grid[ends_y[0]]) & (low[1] < grid[ends_y[1]])
        for left in range(0, side, tile):
            xs = slice(left, left + tile)
            ends_x = [left, min(left + tile, side) - 1]
            here = np.flatnonzero(rows & (high[0] > grid[ends_x[0]]) & (low[0] < grid[ends_x[1]]))
            near = np.ix_(here, np.array(ends_y)), np.ix_(here, np.array(ends_x))
            at_corners = adx[near[1]][:, None] + bdy[near[0]][:, :, None] * dx[near[1]][:, None]
            at_corners += cdy[near[0]][:, :, None]
            filling = at_corners.reshape(-1, 4).max(1) < 1  # an ellipse that holds the corners holds the tile
            here = here[: int(filling.argmax()) + 1]
            far = workspace[: len(here), : ends_y[1] + 1 - top, : ends_x[1] + 1 - left]
            np.multiply(bdy[here, ys][:, :, None], dx[here, xs][:, None], out=far)
            far += adx[here, xs][:, None]
            far += cdy[here, ys][:, :, None]
            order = np.arange(len(here), 0, -1, dtype=np.uint8)
            found = len(here) - ((far < 1).view(np.uint8) * order[:, None, None]).max(0)
            front[ys, xs] = here[found]
            coarse = found[::2, ::2].astype(np.intp)
            rows_of, columns_of = np.ogrid[: found.shape[0] : 2, : found.shape[1] : 2]
            inward[top // 2 : (top + tile) // 2, left // 2 : (left + tile) // 2] = 1 - far[coarse, rows_of, columns_of]
    return front, inward


def _add_thing(picture: np.ndarray, thing: Thing, size: int, noise: np.ndarray, rng: np.random.Generator) -> None:
    """Shadow, body with a little shading and grain, and a thin rim that keeps it apart from a like ground."""
    reach = thing.radius * 1.25
    left, right = max(int((thing.x - reach) * size), 0), min(math.ceil((thing.x + reach) * size), size)
    top, bottom = max(int((thing.y - reach) * size), 0), min(math.ceil((thing.y + reach) * size), size)
    x = ((np.arange(left, right, dtype=np.float32) + 0.5) / size - thing.x)[None] / np.float32(thing.radius)
    y = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / size - thing.y)[:, None] / np.float32(thing.radius)
    cos, sin = np.float32(math.cos(thing.angle)), np.float32(math.sin(thing.angle))
    distance = signed_distance(thing.shape, x * cos + y * sin, y * cos - x * sin)
    pixels = thing.radius * size  # of one unit of distance
    window = picture[:, top:bottom, left:right]

    shadow = np.clip(0.5 - (distance - 0.02) * np.float32(3.5), 0, 1) * np.float32(0.45)
    window *= 1 - shadow
    colour = np.array(COLOURS[thing.colour], dtype=np.float32)[:, None, None]
    shading = 1 + rng.uniform(0.05, 0.14) * (-x - y) / 2
    body = colour * shading + noise[top:bottom, left:right] * rng.uniform(1, 5)
    rim = np.clip((distance + 0.1) * pixels * 0.7 + 0.5, 0, 1)  # towards the edge
    body = body * (1 - 0.3 * rim) if thing.colour != "black" else body + 22 * rim
    cover = np.clip(0.5 - distance * np.float32(pixels), 0, 1)
    window += cover * (body - window)


@lru_cache(maxsize=256)
def _word_mask(word: str, pixels: int) -> np.ndarray:
    font = ImageFont.load_default(size=pixels)
    left, top, right, bottom = font.getbbox(word)
    edge = max(1, pixels // 12)
    image = Image.new("L", (math.ceil(right - left) + 2 * edge, math.ceil(bottom - top) + 2 * edge))
    ImageDraw.Draw(image).text((edge - left, edge - top), word, fill=255, font=font)
    return np.asarray(image, dtype=np.float32) / 255


def _add_text(picture: np.ndarray, text: Text, size: int) -> None:
    """The word on a half-transparent plate, so that it can be read on any ground."""
    mask = _word_mask(text.word, max(8, round(text.height * size * 1.35)))[:size, :size]
    height, width = mask.shape
    top = min(max(round(text.y * size - height / 2), 0), size - height)
    left = min(max(round(text.x * size - width / 2), 0), size - width)
    window = picture[:, top : top + height, left : left + width]
    ink, plate = (248.0, 20.0) if text.light else (16.0, 240.0)
    window += 0.72 * (plate - window)
    window += mask * (ink - window)
