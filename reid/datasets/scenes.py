"""The demo's six cameras: the streets behind the people, what passes in front of them, and the image of each sensor.

Shapes: S frames of a tracklet, H height, W width, 3 RGB. People and streets are drawn at twice the size and reduced at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from reid.datasets.figures import Colour, Person, Pose, draw_person, make_person

HEIGHT, WIDTH = 128, 64
ZOOM = 2
STREET = (1200, 400)  # width, height in drawing pixels


@dataclass(frozen=True)
class Camera:
    """One camera: its view of people, its street and its sensor.

    Args:
        gain: factors on linear R, G, B; gamma: exponent on 0..1 values; saturation: 0 grey, 1 unchanged.
        blur: standard deviation in output pixels; grain: sensor noise, standard deviation in 0..255.
        yaw: mean walking direction, radians (0 towards the camera); spread: its standard deviation.
        pitch: how far the camera looks down; size: body height over crop height; street: a key of STREETS.
    """

    gain: tuple[float, float, float]
    gamma: float
    saturation: float
    blur: float
    grain: float
    yaw: float
    spread: float
    pitch: float
    size: float
    street: str


CAMERAS: dict[int, Camera] = {
    1: Camera((1.00, 1.00, 1.00), 1.00, 1.00, 0.3, 3, 0.2, 0.6, 0.10, 0.97, "bricks"),
    2: Camera((1.08, 1.00, 0.92), 0.95, 0.97, 0.5, 4, 2.8, 0.6, 0.18, 0.93, "park"),
    3: Camera((0.87, 0.92, 0.98), 1.05, 0.95, 0.4, 5, 1.4, 0.7, 0.15, 0.95, "shops"),
    4: Camera((1.04, 1.06, 1.02), 0.92, 0.90, 0.7, 4, 3.4, 0.7, 0.25, 0.92, "plaza"),
    5: Camera((0.92, 0.98, 0.90), 1.03, 1.03, 0.5, 4, 4.6, 0.7, 0.12, 0.98, "road"),
    6: Camera((1.01, 0.94, 1.03), 1.08, 0.92, 0.6, 4, 0.8, 1.2, 0.20, 0.93, "arcade"),
}


@dataclass(frozen=True)
class Walk:
    """What stays the same within a tracklet: light, place, pace and obstacle."""

    camera: Camera
    light: float
    tint: tuple[float, float, float]
    place: tuple[float, float]
    yaw: float
    phase: float
    pace: float
    obstacle: str
    obstacle_colour: Colour
    obstacle_start: float
    obstacle_speed: float
    passer_by: Person


OBSTACLES = ("none", "none", "none", "pole", "bin", "passer-by")


def start_walk(camid: int, rng: np.random.Generator) -> Walk:
    """Draw the constant properties of one tracklet seen by camera `camid` (1..6)."""
    camera = CAMERAS[camid]
    turned = rng.uniform(-math.pi, math.pi) if rng.random() < 0.2 else 0.0  # some walk in another direction
    r, g, b = (float(t) for t in rng.uniform(0.97, 1.03, size=3))
    shade = [int(c) for c in rng.integers(30, 170, size=3)]
    return Walk(
        camera=camera, light=float(rng.uniform(0.92, 1.08)), tint=(r, g, b), place=(float(rng.random()), float(rng.random())),
        yaw=camera.yaw + turned + float(rng.normal(0, camera.spread)), phase=float(rng.uniform(0, 2 * math.pi)),
        pace=float(rng.uniform(0.5, 0.9)), obstacle=OBSTACLES[rng.integers(len(OBSTACLES))],
        obstacle_colour=(shade[0], shade[1], shade[2]), obstacle_start=float(rng.uniform(-0.3, 1.3)),
        obstacle_speed=float(rng.choice((-1, 1)) * rng.uniform(0.06, 0.2)), passer_by=make_person(rng),
    )  # fmt: skip


def draw_frame(
    walk: Walk, person: Person | None, step: int, rng: np.random.Generator, slip: float = 0.0
) -> Image.Image:
    """Draw one frame as an ideal sensor would record it.

    Args:
        walk: the constant properties of the tracklet.
        person: the person in the box; None for a box that lost its person.
        step: frame number within the tracklet, from 0.
        rng: for the jitter of the detector's box.
        slip: extra misplacement of the box, as a share of its size; 0 for an ordinary detection.
    Returns:
        RGB image of WIDTH x HEIGHT.
    """
    width, height = WIDTH * ZOOM, HEIGHT * ZOOM
    street = _street(walk.camera.street)
    left = int((0.85 * walk.place[0] + 0.004 * step) * (STREET[0] - width)) % (STREET[0] - width)
    top = int(walk.place[1] * (STREET[1] - height))
    image = street.crop((left, top, left + width, top + height))
    dx, dy, scale = rng.normal(0, 0.035), rng.normal(0, 0.02), rng.normal(1, 0.04)
    if slip:
        dx, dy, scale = dx + slip * rng.choice((-0.6, 0.6)), dy + slip * rng.choice((-0.6, 0.6)), scale * (1 + slip)
    if person is not None:
        size = walk.camera.size * scale * height
        pose = Pose(
            (0.5 + dx) * width,
            (0.5 + dy) * height + size * 0.5,
            size,
            walk.yaw,
            walk.phase + walk.pace * step,
            walk.camera.pitch,
        )
        _shadow(image, pose)
        draw_person(image, person, pose)
    _obstacle(image, walk, step)
    return image.reduce(ZOOM)


def expose(frames: list[Image.Image], walk: Walk, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply the camera's image formation to frames: blur, light, colour cast, gamma, saturation, grain.

    Args:
        frames: S RGB images of WIDTH x HEIGHT.
        walk: provides camera, light and tint.
        rng: for the grain.
    Returns:
        (S, H, W, 3) uint8.
    """
    camera = walk.camera
    blurred = [frame.filter(ImageFilter.GaussianBlur(camera.blur)) for frame in frames]
    x_SHW3 = np.stack([np.asarray(frame) for frame in blurred]).astype(np.float32) / 255
    grey_SHW1 = x_SHW3 @ np.array([[0.299], [0.587], [0.114]], np.float32)
    x_SHW3 = grey_SHW1 + camera.saturation * (x_SHW3 - grey_SHW1)
    gain = np.array(camera.gain, np.float32) * np.array(walk.tint, np.float32) * walk.light
    x_SHW3 = np.clip(x_SHW3 * gain, 0, 1) ** np.float32(camera.gamma)
    x_SHW3 += rng.standard_normal(x_SHW3.shape, dtype=np.float32) * (camera.grain / 255)
    return (np.clip(x_SHW3, 0, 1) * 255 + 0.5).astype(np.uint8)


def _shadow(image: Image.Image, pose: Pose) -> None:
    rx, ry = 0.2 * pose.height, 0.035 * pose.height
    left, top = round(pose.x - rx), round(pose.y - ry)
    size = (round(2 * rx), round(2 * ry))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=110)
    image.paste((20, 20, 25), (left, top, left + size[0], top + size[1]), mask)


def _obstacle(image: Image.Image, walk: Walk, step: int) -> None:
    """Draw the obstacle between camera and person at this step, if any."""
    x = (walk.obstacle_start + walk.obstacle_speed * step) * image.width
    width, height = image.size
    draw = ImageDraw.Draw(image)
    if walk.obstacle == "pole":
        draw.rectangle((x - 0.07 * width, 0, x + 0.07 * width, height), fill=walk.obstacle_colour)
    elif walk.obstacle == "bin":
        draw.rounded_rectangle(
            (x - 0.28 * width, 0.66 * height, x + 0.28 * width, height * 1.05), radius=10, fill=walk.obstacle_colour
        )
    elif walk.obstacle == "passer-by" and -0.4 * width < x < 1.4 * width:
        yaw = math.copysign(math.pi / 2, walk.obstacle_speed)
        pose = Pose(x, 1.06 * height, 0.95 * height, yaw, walk.phase + 1 + walk.pace * step, walk.camera.pitch)
        draw_person(image, walk.passer_by, pose)


@lru_cache(maxsize=len(CAMERAS))
def _street(name: str) -> Image.Image:
    """Draw a camera's street, the same in every dataset, textured by noise on three scales."""
    rng = np.random.default_rng([20, sorted(STREETS).index(name)])
    image = Image.new("RGB", STREET)
    STREETS[name](ImageDraw.Draw(image), rng)
    x_HW3 = 0.55 * np.asarray(image) + 0.45 * np.asarray(image.convert("L"))[:, :, None]  # paler than most clothes
    for cell, strength in ((64, 16), (12, 9), (2, 7)):
        coarse = rng.normal(0, strength, (STREET[1] // cell + 1, STREET[0] // cell + 1)).astype(np.float32)
        x_HW3 += np.asarray(Image.fromarray(coarse).resize(STREET, Image.Resampling.BILINEAR))[:, :, None]
    return Image.fromarray(np.clip(x_HW3, 0, 255).astype(np.uint8))


def _any_colour(rng: np.random.Generator, low: int = 40, high: int = 220) -> Colour:
    r, g, b = (int(c) for c in rng.integers(low, high, size=3))
    return r, g, b


def _bricks(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, *STREET), fill=(120, 70, 60))
    for row, y in enumerate(range(0, 270, 14)):
        for x in range(-20 * (row % 2), STREET[0], 40):
            tone = int(rng.integers(-25, 25))
            draw.rectangle((x, y, x + 37, y + 11), fill=(160 + tone, 95 + tone, 80 + tone))
    draw.rectangle((0, 270, *STREET), fill=(150, 148, 142))
    for x in range(0, STREET[0], 60):
        draw.line((x, 270, x - 40, STREET[1]), fill=(115, 113, 110), width=3)


def _park(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, *STREET), fill=(165, 195, 220))
    for _ in range(420):
        x, y, r = (int(rng.integers(*limits)) for limits in ((0, STREET[0]), (0, 190), (10, 40)))
        tone = int(rng.integers(-35, 35))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(70 + tone, 120 + tone, 60 + tone))
    for x in range(30, STREET[0], 110):
        draw.rectangle((x, 90, x + 14, 240), fill=(85, 65, 50))
    draw.rectangle((0, 220, *STREET), fill=(105, 150, 80))
    draw.rectangle((0, 310, *STREET), fill=(185, 170, 140))


def _shops(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, *STREET), fill=(90, 88, 95))
    for x in range(0, STREET[0], 150):
        draw.rectangle((x + 6, 20, x + 144, 60), fill=_any_colour(rng))
        draw.rectangle((x + 10, 70, x + 140, 280), fill=_any_colour(rng, 120, 240))
        for _ in range(9):
            left, top = x + int(rng.integers(12, 110)), int(rng.integers(90, 240))
            draw.rectangle((left, top, left + 28, top + 36), fill=_any_colour(rng))
    draw.rectangle((0, 290, *STREET), fill=(130, 120, 112))


def _plaza(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, *STREET), fill=(175, 170, 160))
    for row, y in enumerate(range(0, STREET[1], 32)):
        for column, x in enumerate(range(0, STREET[0], 32)):
            base = 190 if (row + column) % 2 else 135
            tone = base + int(rng.integers(-14, 14))
            draw.rectangle((x, y, x + 30, y + 30), fill=(tone, tone - 6, tone - 16))


def _road(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, *STREET), fill=(95, 97, 100))
    draw.rectangle((0, 0, STREET[0], 90), fill=(150, 150, 145))
    for x in range(20, STREET[0], 210):
        paint = _any_colour(rng)
        draw.rounded_rectangle((x, 110, x + 180, 210), radius=22, fill=paint)
        draw.rounded_rectangle((x + 35, 65, x + 145, 130), radius=20, fill=(60, 75, 90))
        for wheel in (x + 35, x + 145):
            draw.ellipse((wheel - 22, 185, wheel + 22, 229), fill=(25, 25, 28))
    for x in range(0, STREET[0], 120):
        draw.rectangle((x, 320, x + 60, 332), fill=(215, 215, 205))


def _arcade(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, *STREET), fill=(70, 62, 58))
    for x in range(0, STREET[0], 90):
        tone = int(rng.integers(-15, 15))
        draw.rectangle((x, 0, x + 38, 300), fill=(195 + tone, 180 + tone, 150 + tone))
        draw.rectangle((x - 6, 270, x + 44, 300), fill=(165, 150, 125))
    draw.rectangle((0, 300, *STREET), fill=(120, 105, 90))
    for y in range(300, STREET[1], 20):
        draw.line((0, y, STREET[0], y), fill=(95, 82, 70), width=3)


STREETS: dict[str, Callable[[ImageDraw.ImageDraw, np.random.Generator], None]] = {
    "bricks": _bricks, "park": _park, "shops": _shops, "plaza": _plaza, "road": _road, "arcade": _arcade,
}  # fmt: skip
