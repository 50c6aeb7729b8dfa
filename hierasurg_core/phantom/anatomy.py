"""The still anatomy of a phantom scene, drawn once a scene on a canvas that is larger than the field of view.

Owns shapes, colours and textures of the 14 targets. Moving things (instruments, smoke, traction, the camera)
belong to `draw`, which warps this canvas. Legend: B scenes, T = 14 targets, Y X canvas rows and columns; all
shapes are signed distances in world units (negative inside).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hierasurg_core.phantom import scene as sc
from hierasurg_core.phantom.scene import Scene

BACKGROUND = -1
"""Class value of the canvas where no target is."""
CANVAS_MARGIN = 1.28
"""Canvas size over frame size: room for pan, zoom and traction."""

_COLOURS = (
    (0.50, 0.58, 0.30),  # gallbladder: green-grey serosa
    (0.74, 0.25, 0.20),  # cystic plate: the raw bed
    (0.86, 0.80, 0.55),  # cystic duct: cream
    (0.82, 0.08, 0.08),  # cystic artery: bright red
    (0.90, 0.64, 0.20),  # cystic pedicle: deep yellow fat
    (0.30, 0.22, 0.56),  # blood vessel: a blue vein
    (0.26, 0.01, 0.03),  # fluid: a dark pool of blood
    (0.74, 0.44, 0.38),  # abdominal wall
    (0.42, 0.12, 0.09),  # liver
    (0.92, 0.84, 0.80),  # adhesion: a white web
    (0.95, 0.83, 0.46),  # omentum: pale yellow fat
    (0.86, 0.66, 0.62),  # peritoneum: a pale sheet
    (0.88, 0.50, 0.45),  # gut: pink
    (0.72, 0.84, 0.94),  # specimen bag: clear plastic
)
_BACKGROUND_RGB = (0.40, 0.14, 0.12)


@dataclasses.dataclass
class Canvas:
    """The drawn anatomy.

    Attributes:
        rgb_B3YX: Colours in [0, 1].
        class_B1YX: Target id of each pixel as float, `BACKGROUND` where none.
        half_extent_xy: World coordinates of the canvas' right and lower edge.
    """

    rgb_B3YX: Tensor
    class_B1YX: Tensor
    half_extent_xy: tuple[float, float]


def _ellipse(xy: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Signed distance of an ellipse about 0: exact in sign, to first order near the outline."""
    x, y = xy.unbind(-1)
    nx, ny = x / radius_x, y / radius_y
    k0 = torch.sqrt(nx * nx + ny * ny)
    k1 = torch.sqrt((nx / radius_x) ** 2 + (ny / radius_y) ** 2).clamp_min(1e-4)
    return k0 * (k0 - 1) / k1


def _tube(xy: Tensor, start: tuple[float, float], end: tuple[float, float], bend: float) -> Tensor:
    """Distance to the middle line of a bent tube, a parabola over the segment from start to end."""
    start_2 = xy.new_tensor(start)
    along_2 = xy.new_tensor(end) - start_2
    length = torch.linalg.vector_norm(along_2)
    unit_2 = along_2 / length
    local = xy - start_2
    u = local[..., 0] * unit_2[0] + local[..., 1] * unit_2[1]
    v = local[..., 1] * unit_2[0] - local[..., 0] * unit_2[1]
    t = (u / length).clamp(0, 1)
    v = v - bend * 4 * t * (1 - t)
    return torch.sqrt((u - t * length) ** 2 + v * v)


def _rotated(xy: Tensor, angle: Tensor | float) -> Tensor:
    angle = torch.as_tensor(angle, device=xy.device)
    if angle.dim():
        angle = angle.view(-1, 1, 1)
    x, y = xy.unbind(-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)


class _Painter:
    """Paints layers from back to front on colours and classes."""

    def __init__(self, scene: Scene, xy_BYX2: Tensor, pixel: float) -> None:
        shape = xy_BYX2.shape[:3]
        self.scene = scene
        self.pixel = pixel
        self.colours_BT3 = xy_BYX2.new_tensor(_COLOURS) * scene.colour_jitter_BT3
        self.rgb = (
            xy_BYX2.new_tensor(_BACKGROUND_RGB).view(1, 3, 1, 1).expand(shape[0], 3, *shape[1:]).clone()
        )
        self.classes = xy_BYX2.new_full((shape[0], 1, *shape[1:]), float(BACKGROUND))

    def paint(
        self,
        target: int,
        distance: Tensor,
        light: Tensor | float = 1.0,
        gloss: Tensor | float = 0.0,
        *,
        bulge: float = 0.12,
        shadow: float = 0.4,
        opacity: float = 1.0,
    ) -> None:
        """Paints one target.

        Args:
            target: Target id.
            distance: Signed distance (B, Y, X).
            light: Factor on the colour (B, Y, X): the texture.
            gloss: White added (B, Y, X): wet highlights.
            bulge: Depth over which the rim darkens: how round it looks.
            shadow: Strength of the shadow cast around it.
            opacity: 1 hides what lies behind.
        """
        present = self.scene.present_BT[:, target].view(-1, 1, 1)
        around = torch.exp(-distance.clamp_min(0) / 0.05) * (shadow * present)
        self.rgb *= (1 - around).unsqueeze(1)
        alpha = (0.5 - distance / self.pixel).clamp(0, 1) * present
        depth = (-distance / bulge).clamp(0, 1)
        shade = light * (0.62 + 0.46 * (1 - (1 - depth) ** 2))
        colour = self.colours_BT3[:, target, :, None, None] * shade.unsqueeze(1)
        if not isinstance(gloss, float):
            colour = colour + (gloss * depth).unsqueeze(1)
        self.rgb = torch.lerp(self.rgb, colour, (alpha * opacity).unsqueeze(1))
        self.classes = torch.where((alpha > 0.5).unsqueeze(1), float(target), self.classes)


def draw_anatomy(scene: Scene, size_hw: tuple[int, int]) -> Canvas:
    """Draws the still anatomy of B scenes for frames of the given size.

    Args:
        scene: B scenes; the result is on their device.
        size_hw: Frame height and width in pixels; the canvas is `CANVAS_MARGIN` times as large.

    Returns:
        The canvas, float32.
    """
    height, width = size_hw
    rows, columns = round(height * CANVAS_MARGIN), round(width * CANVAS_MARGIN)
    half_y = rows / height
    half_x = columns / height
    device = scene.noise_B8.device
    y = (torch.arange(rows, device=device) + 0.5) * (2 / height) - half_y
    x = (torch.arange(columns, device=device) + 0.5) * (2 / height) - half_x
    world_B = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).expand(len(scene), -1, -1, -1)
    q = sc.anatomy_xy(scene, world_B)
    noise = scene.noise_B8[:, :, None, None]
    qx, qy = q.unbind(-1)
    # Outlines bend a little, differently in each scene.
    bent = torch.stack(
        [
            qx + 0.020 * torch.sin(5.1 * qy + noise[:, 0]) + 0.010 * torch.sin(11.0 * qy + noise[:, 1]),
            qy + 0.020 * torch.sin(4.3 * qx + noise[:, 2]) + 0.010 * torch.sin(9.0 * qx + noise[:, 3]),
        ],
        dim=-1,
    )
    # Two textures: coarse lumps and fine grain, both in [-1, 1].
    lumps = torch.sin(13 * qx + 2 * torch.sin(5 * qy + noise[:, 4])) * torch.sin(12 * qy + noise[:, 5])
    grain = torch.sin(31 * qx + 3 * torch.sin(17 * qy + noise[:, 6])) * torch.sin(27 * qy + noise[:, 7])
    anchors = sc.anatomy_xy(scene, scene.anchor_BT2)[:, :, None, None]
    painter = _Painter(scene, world_B, 2 / height)
    painter.rgb = painter.rgb * (1 + 0.10 * lumps + 0.05 * grain).unsqueeze(1)
    paint = painter.paint
    phase_B11 = scene.phase_B.view(-1, 1, 1)
    local = [bent - anchors[:, target] for target in range(sc.NUM_TARGETS)]

    folds = torch.sin(26 * (qy + 0.4 * qx) + 1.5 * lumps)
    paint(sc.ABDOMINAL_WALL, _ellipse(local[sc.ABDOMINAL_WALL], 0.74, 0.46), 1 + 0.16 * folds, shadow=0.2)
    sheet = local[sc.PERITONEUM]
    vessels = torch.exp(-((torch.sin(9 * sheet[..., 1] + 4 * sheet[..., 0] + noise[:, 4]) / 0.16) ** 2))
    paint(sc.PERITONEUM, _ellipse(_rotated(sheet, 0.25), 0.30, 0.50), 1 - 0.22 * vessels, shadow=0.2)
    liver = local[sc.LIVER]
    liver_gloss = 0.30 * torch.exp(
        -(((liver[..., 0] + 0.28) / 0.20) ** 2 + ((liver[..., 1] - 0.12) / 0.05) ** 2)
    )
    paint(
        sc.LIVER,
        _ellipse(_rotated(liver, 0.05), 1.15, 0.47),
        1 + 0.07 * grain + 0.05 * lumps,
        liver_gloss,
        bulge=0.2,
    )

    bed = (phase_B11 >= 3).float()
    plate = local[sc.CYSTIC_PLATE]
    charred = (phase_B11 == 5).float() * torch.exp(-(((lumps - 0.7) / 0.35) ** 2))
    weeping = (
        1 + 0.20 * grain + 0.10 * lumps - 0.25 * (phase_B11 == 3).float() * (lumps > 0.3) - 0.62 * charred
    )
    paint(
        sc.CYSTIC_PLATE,
        _ellipse(_rotated(plate, -0.12), 0.38 + 0.08 * bed, 0.10 + 0.07 * bed),
        weeping,
        shadow=0.25,
    )

    fat = local[sc.OMENTUM]
    lobes = 0.030 * torch.sin(16 * fat[..., 0] + noise[:, 5])
    cells = 1 + 0.14 * lumps + 0.06 * grain
    fat_gloss = 0.22 * (lumps.clamp_min(0) ** 4)
    paint(sc.OMENTUM, _ellipse(fat, 0.60, 0.29) + lobes, cells, fat_gloss)
    gut = _rotated(local[sc.GUT], -0.5)
    ridges = torch.sin(24 * gut[..., 0] + noise[:, 1])
    gut_gloss = 0.35 * torch.exp(-(((gut[..., 1] + 0.07) / 0.03) ** 2)) * (ridges > 0.2)
    paint(sc.GUT, _ellipse(gut, 0.48, 0.25) + 0.014 * ridges, 1 + 0.13 * ridges, gut_gloss, bulge=0.16)
    vein = _tube(local[sc.BLOOD_VESSEL], (-0.13, -0.20), (0.14, 0.20), 0.05) - 0.062
    vein_gloss = 0.3 * torch.exp(-(((vein + 0.05) / 0.012) ** 2))
    paint(sc.BLOOD_VESSEL, vein, 1 + 0.10 * lumps, vein_gloss, bulge=0.06)
    pool = local[sc.FLUID]
    pool_gloss = 0.55 * torch.exp(
        -(((pool[..., 0] + 0.10) / 0.09) ** 2 + ((pool[..., 1] + 0.05) / 0.022) ** 2)
    )
    pool_gloss = pool_gloss + 0.25 * torch.exp(
        -(((pool[..., 0] - 0.14) / 0.05) ** 2 + ((pool[..., 1] - 0.05) / 0.02) ** 2)
    )
    paint(
        sc.FLUID,
        _ellipse(pool, 0.30, 0.16) + 0.02 * lumps,
        1.0 + 0.1 * grain,
        pool_gloss,
        bulge=0.05,
        shadow=0.15,
    )

    pedicle = local[sc.CYSTIC_PEDICLE]
    paint(
        sc.CYSTIC_PEDICLE,
        _ellipse(_rotated(pedicle, -0.3), 0.20, 0.15) + 0.022 * lumps,
        1 + 0.18 * grain,
        0.2 * (grain.clamp_min(0) ** 4),
    )
    artery = _tube(local[sc.CYSTIC_ARTERY], (-0.30, 0.14), (0.40, -0.10), -0.04) - 0.036
    paint(sc.CYSTIC_ARTERY, artery, 1.1, 0.45 * torch.exp(-(((artery + 0.03) / 0.010) ** 2)), bulge=0.036)
    duct = _tube(local[sc.CYSTIC_DUCT], (-0.32, 0.02), (0.42, -0.12), 0.05) - 0.056
    paint(
        sc.CYSTIC_DUCT,
        duct,
        1 + 0.05 * grain,
        0.25 * torch.exp(-(((duct + 0.045) / 0.014) ** 2)),
        bulge=0.056,
    )
    clipped = ((phase_B11 == 2) | (phase_B11 == 3)).float()
    for target, tube, places in (
        (sc.CYSTIC_DUCT, duct, (-0.16, -0.07)),
        (sc.CYSTIC_ARTERY, artery, (-0.12, -0.04)),
    ):
        for place in places:
            bar = torch.maximum((_rotated(local[target], -0.12)[..., 0] - place).abs() - 0.016, tube - 0.045)
            _tint(painter, bar, (0.90, 0.92, 0.96), clipped * scene.present_BT[:, target].view(-1, 1, 1))

    adhesion = local[sc.ADHESION]
    strands = torch.sin(34 * adhesion[..., 0] + 2 * torch.sin(9 * adhesion[..., 1]))
    waist = 0.15 - 0.10 * torch.cos(adhesion[..., 1] / 0.20 * 1.2)
    web = torch.maximum(adhesion[..., 0].abs() - (0.11 + waist), adhesion[..., 1].abs() - 0.12)
    paint(sc.ADHESION, web, 1 + 0.14 * strands, bulge=0.04, opacity=0.88, shadow=0.25)

    closed = (phase_B11 == 6).float()
    bag = _bag_xy(scene, bent)
    bag_outline = torch.maximum(_ellipse(bag, 0.31, 0.36 - 0.08 * closed), -bag[..., 1] - 0.25)
    creases = torch.sin(30 * bag[..., 0] + 9 * bag[..., 1] + noise[:, 2])
    bag_gloss = 0.25 * (creases > 0.75) + 0.35 * torch.exp(-(((bag[..., 0] + 0.18) / 0.025) ** 2))
    paint(sc.SPECIMEN_BAG, bag_outline, 0.92 + 0.08 * creases, bag_gloss, bulge=0.05, opacity=0.94)
    rim = (_ellipse(bag - bag.new_tensor((0.0, -0.24)), 0.215, 0.05)).abs() - 0.016
    _tint(painter, rim, (0.16, 0.36, 0.80), scene.present_BT[:, sc.SPECIMEN_BAG].view(-1, 1, 1).float())

    gallbladder = local[sc.GALLBLADDER]
    lifted = (phase_B11 == 3).float()
    bagged = (phase_B11 >= 4).float()
    tilt = torch.where(scene.phase_B == 3, 0.75, torch.where(scene.phase_B >= 4, -1.2, -0.28))
    pear = _rotated(gallbladder, tilt)
    size = 1.14 - 0.56 * bagged - 0.08 * lifted
    body = _ellipse(pear - torch.stack([0.06 * size, 0 * size], dim=-1), 0.33 * size, 0.20 * size)
    neck = _ellipse(pear + torch.stack([0.34 * size, 0 * size], dim=-1), 0.20 * size, 0.085 * size)
    pear_distance = -torch.logsumexp(torch.stack([-body, -neck]) * 26, dim=0) / 26
    veins = torch.exp(
        -((torch.sin(10 * pear[..., 1] + 3 * torch.sin(6 * pear[..., 0] + noise[:, 0])) / 0.13) ** 2)
    )
    sheen = torch.exp(-(((pear[..., 0] - 0.04) / 0.13) ** 2 + ((pear[..., 1] + 0.07) / 0.028) ** 2))
    paint(sc.GALLBLADDER, pear_distance, 1 - 0.16 * veins + 0.05 * lumps, 0.50 * sheen, bulge=0.15)
    film = bagged * scene.present_BT[:, sc.SPECIMEN_BAG].view(-1, 1, 1)
    _tint(painter, bag_outline, (0.78, 0.88, 0.97), 0.34 * film)

    port = torch.sqrt(((qx + 0.42) ** 2 + (qy + 0.44) ** 2).clamp_min(1e-6))
    extracting = (phase_B11 == 6).float()
    _tint(painter, (port - 0.19).abs() - 0.045, (0.30, 0.34, 0.40), extracting)
    _tint(painter, port - 0.15, (0.05, 0.05, 0.06), extracting * 0.9)
    return Canvas(painter.rgb.clamp(0, 1), painter.classes, (half_x, half_y))


def _bag_xy(scene: Scene, bent_BYX2: Tensor) -> Tensor:
    """Coordinates about the bag's middle; once it is open its anchor is the rim (see `scene.draw_scenes`)."""
    anchor = sc.anatomy_xy(scene, scene.anchor_BT2)[:, sc.SPECIMEN_BAG]
    shift = torch.zeros_like(anchor)
    shift[scene.phase_B >= 4] = anchor.new_tensor((0.02, 0.25))
    return bent_BYX2 - (anchor + shift)[:, None, None]


def _tint(painter: _Painter, distance: Tensor, colour: tuple[float, float, float], strength: Tensor) -> None:
    """Colours a shape without giving it a class: clips, rims, films."""
    alpha = ((0.5 - distance / painter.pixel).clamp(0, 1) * strength).unsqueeze(1)
    painter.rgb = torch.lerp(
        painter.rgb, painter.rgb.new_tensor(colour).view(1, 3, 1, 1).expand_as(painter.rgb), alpha
    )
