"""Draw walking people with Pillow: their looks (`Person`), their pose (`Pose`), and `draw_person`.

Body coordinates: u to the person's left, v forward, z up; unit = body height. Yaw 0 faces the camera, pi/2 the right edge of the
image, pi away from the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

# Short lists, so that many people share a colour and one colour alone identifies nobody.
CLOTHES: tuple[Colour, ...] = (
    (190, 40, 45), (45, 75, 165), (50, 125, 70), (225, 190, 60), (235, 232, 225),
    (38, 38, 44), (125, 128, 132), (110, 60, 130), (225, 125, 50), (95, 165, 190),
)  # fmt: skip
LOWERS: tuple[Colour, ...] = (
    (40, 55, 95), (35, 35, 40), (110, 112, 118), (150, 120, 85), (215, 210, 200), (85, 100, 60), (120, 45, 50),
)  # fmt: skip
SHOES: tuple[Colour, ...] = ((30, 28, 28), (235, 235, 235), (115, 75, 45), (170, 45, 45))
BAGS: tuple[Colour, ...] = ((35, 35, 38), (165, 45, 45), (50, 90, 150), (120, 85, 50), (210, 180, 70), (70, 120, 75))
HAIR: tuple[Colour, ...] = ((30, 24, 22), (85, 55, 35), (190, 150, 85), (150, 148, 146))
SKIN: tuple[Colour, ...] = ((240, 205, 180), (215, 165, 125), (160, 110, 80), (95, 62, 45))

PATTERNS = ("plain", "plain", "hoops", "pinstripes", "checks", "dots", "yoke")
TOPS = ("t-shirt", "long sleeves", "long sleeves", "coat")
BOTTOMS = ("trousers", "trousers", "shorts", "skirt")
HAIRSTYLES = ("short", "long", "bald", "hat")
CARRIED = ("nothing", "backpack", "satchel", "handbag")


@dataclass(frozen=True)
class Person:
    """One identity: all features of a person that stay the same across cameras."""

    skin: Colour
    hair: Colour
    upper: Colour
    accent: Colour
    lower: Colour
    shoes: Colour
    bag: Colour
    pattern: str
    logo: bool
    top: str
    bottom: str
    hairstyle: str
    carried: str
    height: float
    girth: float


@dataclass(frozen=True)
class Pose:
    """Position and pose: feet at pixel (x, y), height in pixels, yaw and gait phase in radians, camera pitch as dy/depth."""

    x: float
    y: float
    height: float
    yaw: float
    phase: float
    pitch: float


def make_person(rng: np.random.Generator) -> Person:
    """Draw the looks of a new person, using this generator only."""

    def colour(palette: tuple[Colour, ...]) -> Colour:
        base, shift = palette[rng.integers(len(palette))], rng.integers(-12, 13, size=3)
        r, g, b = (int(c) for c in np.clip(np.asarray(base) + shift, 0, 255))
        return r, g, b

    def one_of(names: tuple[str, ...]) -> str:
        return names[rng.integers(len(names))]

    return Person(
        skin=colour(SKIN), hair=colour(HAIR), upper=colour(CLOTHES), accent=colour(CLOTHES), lower=colour(LOWERS),
        shoes=colour(SHOES), bag=colour(BAGS), pattern=one_of(PATTERNS), logo=bool(rng.random() < 0.3), top=one_of(TOPS),
        bottom=one_of(BOTTOMS), hairstyle=one_of(HAIRSTYLES), carried=one_of(CARRIED),
        height=float(rng.uniform(0.9, 1.06)), girth=float(rng.uniform(0.95, 1.4)),
    )  # fmt: skip


def draw_person(image: Image.Image, person: Person, pose: Pose) -> None:
    """Draw one person onto an RGB image, in place.

    Args:
        image: RGB, any size; parts outside it are cut off.
        person: the person to draw.
        pose: in this image's pixels.
    """
    body = _Body(image, person, replace(pose, height=pose.height * person.height))
    far = -1 if math.sin(pose.yaw) < 0 else 1  # facing right, the left side (u > 0) is the far one
    facing = math.cos(pose.yaw)
    body.arm(far, shade=0.8)
    if person.carried == "backpack" and facing >= 0:
        body.backpack()
    body.leg(far, shade=0.8)
    body.leg(-far)
    body.torso()
    if person.carried == "backpack" and facing < 0:
        body.backpack()
    elif person.carried == "backpack":
        body.straps()
    if person.carried == "satchel":
        body.satchel()
    body.head()
    body.arm(-far)


class _Body:
    """Body parts of a person, projected into the image, for one drawing."""

    def __init__(self, image: Image.Image, person: Person, pose: Pose) -> None:
        self.image, self.person, self.pose = image, person, pose
        self.draw = ImageDraw.Draw(image)
        self.cos, self.sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self.swing = math.sin(pose.phase)

    def at(self, u: float, v: float, z: float) -> Point:
        depth = v * self.cos - u * self.sin
        h = self.pose.height
        return self.pose.x + h * (u * self.cos + v * self.sin), self.pose.y + h * (self.pose.pitch * depth - z)

    def half_width(self, side: float, front: float) -> float:
        """Half the width in pixels of the projection of an ellipse with these half axes."""
        return self.pose.height * self.person.girth * math.hypot(side * self.cos, front * self.sin)

    def limb(self, start: Point, end: Point, width: float, colour: Colour, taper: float = 0.8) -> None:
        """Draw a rounded bar; `width` in body heights, narrower by the factor `taper` at its end."""
        r0 = width * self.pose.height * self.person.girth / 2
        r1 = r0 * taper
        length = math.dist(start, end) or 1.0
        nx, ny = (start[1] - end[1]) / length, (end[0] - start[0]) / length
        corners = [
            (p[0] + s * r * nx, p[1] + s * r * ny)
            for p, r, s in ((start, r0, 1), (end, r1, 1), (end, r1, -1), (start, r0, -1))
        ]
        self.draw.polygon(corners, fill=colour)
        for (x, y), r in ((start, r0), (end, r1)):
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def leg(self, side: int, shade: float = 1.0) -> None:
        who = self.person
        lift = side * self.swing
        thigh = 0.42 * lift
        calf = thigh - 0.75 * max(0.0, math.cos(self.pose.phase) * side) - 0.1
        u, z = side * 0.05 * who.girth, 0.49
        hip, z, v = self.at(u, 0, z), z - 0.225 * math.cos(thigh), 0.225 * math.sin(thigh)
        knee, z, v = self.at(u, v, z), z - 0.215 * math.cos(calf), v + 0.215 * math.sin(calf)
        ankle, toe = self.at(u, v, z), self.at(u, v + 0.075, z - 0.02)
        cloth, skin = _shaded(who.lower, shade), _shaded(who.skin, shade)
        self.limb(knee, ankle, 0.062, cloth if who.bottom == "trousers" else skin, 0.75)
        self.limb(ankle, toe, 0.052, _shaded(who.shoes, shade), 0.9)
        self.limb(hip, knee, 0.09, skin if who.bottom == "skirt" else cloth, 0.72)

    def arm(self, side: int, shade: float = 1.0) -> None:
        who = self.person
        upper = -0.5 * side * self.swing
        lower = upper + 0.35
        u, z = side * 0.125 * who.girth, 0.79
        shoulder, z, v = self.at(u, 0, z), z - 0.165 * math.cos(upper), 0.165 * math.sin(upper)
        u += side * 0.012
        elbow, z, v = self.at(u, v, z), z - 0.15 * math.cos(lower), v + 0.15 * math.sin(lower)
        hand = self.at(u, v, z)
        cloth, skin = _shaded(who.upper, 0.88 * shade), _shaded(who.skin, shade)
        self.limb(elbow, hand, 0.045, skin if who.top == "t-shirt" else cloth)
        self.limb(hand, self.at(u, v, z - 0.02), 0.04, skin)
        self.limb(shoulder, elbow, 0.062, cloth, 0.78)
        if who.carried == "handbag" and side > 0:
            self.box(self.at(u, v, z - 0.09), self.half_width(0.035, 0.075), 0.055 * self.pose.height, who.bag)

    def torso(self) -> None:
        who, h = self.person, self.pose.height
        hem = {"coat": 0.34, "t-shirt": 0.47, "long sleeves": 0.46}[who.top]
        x, top = self.at(0, 0, 0.825)
        shoulder, waist, hip = self.half_width(0.128, 0.075), self.half_width(0.1, 0.07), self.half_width(0.108, 0.082)
        if who.bottom == "skirt":
            low = self.half_width(0.14, 0.13)
            y0, y1 = top + 0.33 * h, top + 0.545 * h
            self.draw.polygon([(x - waist, y0), (x + waist, y0), (x + low, y1), (x - low, y1)], fill=who.lower)
        else:
            self.draw.rectangle((x - hip * 0.92, top + 0.3 * h, x + hip * 0.92, top + 0.37 * h), fill=who.lower)
        bottom = top + (0.825 - hem) * h
        flare = hip * 1.12 if who.top == "coat" else hip
        right = [
            (0.45 * shoulder, top),
            (0.9 * shoulder, top + 0.02 * h),
            (shoulder, top + 0.06 * h),
            (waist, top + 0.22 * h),
            (flare, bottom),
        ]
        self.cloth([(x + dx, y) for dx, y in right] + [(x - dx, y) for dx, y in reversed(right)])
        if who.top == "coat" and self.cos > 0.2:
            middle = x + 0.05 * h * self.sin
            self.draw.line((middle, top, middle, bottom), fill=_shaded(who.accent, 0.9), width=max(1, round(0.022 * h)))
        if who.logo and self.cos > 0.3:
            self.box((x + 0.05 * h * self.sin, top + 0.11 * h), 0.055 * h * self.cos, 0.045 * h, who.accent)

    def cloth(self, outline: list[Point]) -> None:
        """Fill an outline with the upper garment's pattern."""
        if self.person.pattern == "plain":
            self.draw.polygon(outline, fill=self.person.upper)
            return
        xs, ys = zip(*outline, strict=True)
        left, top = math.floor(min(xs)), math.floor(min(ys))
        size = (math.ceil(max(xs)) - left + 1, math.ceil(max(ys)) - top + 1)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=255)
        cloth = _pattern(self.person.pattern, self.person.upper, self.person.accent, round(self.pose.height / 8) * 8)
        inset = (cloth.width - size[0]) // 2
        self.image.paste(cloth.crop((inset, 0, inset + size[0], size[1])), (left, top), mask)

    def head(self) -> None:
        who, h = self.person, self.pose.height
        self.limb(self.at(0, 0, 0.82), self.at(0, 0.01, 0.88), 0.05, _shaded(who.skin, 0.85), 1.0)
        if who.hairstyle == "long":
            x, y = self.at(0, -0.02, 0.87)
            width = 0.062 * h
            end = y + (0.12 if self.cos < 0.3 else 0.05) * h
            self.draw.rounded_rectangle((x - width, y - 0.06 * h, x + width, end), radius=width * 0.7, fill=who.hair)
        scalp = who.skin if who.hairstyle == "bald" else who.hair
        self.disc(self.at(0, -0.008, 0.938), 0.056 * h, 0.064 * h, scalp)
        if self.cos > -0.4:
            lower = 0.0 if who.hairstyle == "bald" else 0.02
            self.disc(self.at(0, 0.026, 0.938 - lower), (0.036 + 0.012 * abs(self.cos)) * h, 0.052 * h, who.skin)
        if who.hairstyle == "hat":
            x, y = self.at(0, 0, 0.952)
            self.draw.pieslice((x - 0.064 * h, y - 0.06 * h, x + 0.064 * h, y + 0.06 * h), 180, 360, fill=who.accent)
            brim = self.at(0, 0.085, 0.95)
            self.limb((x, y), brim, 0.02, _shaded(who.accent, 0.8), 1.0)

    def backpack(self) -> None:
        centre = self.at(0, -0.105 * self.person.girth, 0.67)
        width, height = self.half_width(0.085, 0.06), 0.125 * self.pose.height
        self.box(centre, width, height, self.person.bag)
        if self.cos < -0.3:
            pocket = (centre[0], centre[1] + 0.45 * height)
            self.box(pocket, 0.7 * width, 0.35 * height, _shaded(self.person.bag, 0.75))

    def straps(self) -> None:
        for side in (-1, 1):
            u = side * 0.075 * self.person.girth
            self.limb(self.at(u, 0.05, 0.82), self.at(u, 0.06, 0.62), 0.02, self.person.bag, 1.0)

    def satchel(self) -> None:
        u = 0.12 * self.person.girth
        front = 0.055 if self.cos > 0 else -0.055
        self.limb(self.at(-0.08, front, 0.82), self.at(u, front, 0.5), 0.018, self.person.bag, 1.0)
        if u * -self.sin > -0.09:  # otherwise the hip covers it
            self.box(self.at(u, front, 0.46), self.half_width(0.055, 0.085), 0.06 * self.pose.height, self.person.bag)

    def disc(self, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        self.draw.ellipse((centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry), fill=colour)

    def box(self, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        corners = (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)
        self.draw.rounded_rectangle(corners, radius=0.4 * min(rx, ry), fill=colour)


def _shaded(colour: Colour, factor: float) -> Colour:
    r, g, b = (int(c * factor) for c in colour)
    return r, g, b


@lru_cache(maxsize=256)
def _pattern(name: str, ground: Colour, accent: Colour, height: int) -> Image.Image:
    """Draw the cloth for a body of `height` pixels; its pattern keeps its size relative to the body."""
    width, length = height // 2, height * 6 // 10
    cloth = Image.new("RGB", (width, length), ground)
    draw = ImageDraw.Draw(cloth)
    step = max(4, round(0.06 * height))
    if name in ("hoops", "checks"):
        for y in range(step // 2, length, step):
            draw.rectangle((0, y, width, y + step // 2 - 1), fill=accent)
    if name in ("pinstripes", "checks"):
        for x in range(width // 2 % step, width, step):
            draw.rectangle((x, 0, x + step // 3, length), fill=accent)
    if name == "dots":
        for row, y in enumerate(range(step // 2, length, step)):
            for x in range(step // 2 * (row % 2), width, step):
                draw.ellipse((x, y, x + step // 2, y + step // 2), fill=accent)
    if name == "yoke":
        draw.rectangle((0, 0, width, round(0.13 * height)), fill=accent)
    return cloth
