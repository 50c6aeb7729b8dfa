"""What a phantom scene is made of: the anatomy's layout, its state in each phase, its random variation.

Legend: B scenes; ``xy`` world coordinates with x to the right, y down, the optical axis at (0, 0) and half
    the image height as the unit, so that a frame covers y in [-1, 1] and x in [-W/H, W/H]. Refuses nothing by
    itself: phases and targets are ids of `hierasurg_core.taxonomy`.
"""

from __future__ import annotations

import dataclasses

import torch

from hierasurg_core import taxonomy

NUM_TARGETS = 14
"""Targets that are things to see; `null_target` is not one."""
CLASS_NAMES: tuple[str, ...] = (*taxonomy.TARGETS[:NUM_TARGETS], *taxonomy.INSTRUMENTS)
"""Entity classes of the phantom: the 14 visible targets, then the six instruments."""

(
    GALLBLADDER,
    CYSTIC_PLATE,
    CYSTIC_DUCT,
    CYSTIC_ARTERY,
    CYSTIC_PEDICLE,
    BLOOD_VESSEL,
    FLUID,
    ABDOMINAL_WALL,
    LIVER,
    ADHESION,
    OMENTUM,
    PERITONEUM,
    GUT,
    SPECIMEN_BAG,
) = range(NUM_TARGETS)

_ANCHORS = (
    (0.34, -0.02),
    (0.36, -0.38),
    (-0.36, 0.27),
    (-0.40, -0.12),
    (-0.82, 0.12),
    (0.88, 0.30),
    (-0.54, 0.64),
    (-0.78, -0.68),
    (0.58, -0.74),
    (0.12, 0.36),
    (0.14, 0.78),
    (-1.10, -0.16),
    (0.84, 0.76),
    (1.12, -0.12),
)
_FIXTURES = (ABDOMINAL_WALL, LIVER, OMENTUM, PERITONEUM, GUT, BLOOD_VESSEL)
_PHASE_TARGETS: tuple[tuple[int, ...], ...] = (
    (GALLBLADDER, ADHESION, CYSTIC_PEDICLE),
    (GALLBLADDER, CYSTIC_PLATE, CYSTIC_DUCT, CYSTIC_ARTERY, CYSTIC_PEDICLE),
    (GALLBLADDER, CYSTIC_PLATE, CYSTIC_DUCT, CYSTIC_ARTERY),
    (GALLBLADDER, CYSTIC_PLATE, CYSTIC_DUCT),
    (GALLBLADDER, CYSTIC_PLATE, SPECIMEN_BAG),
    (CYSTIC_PLATE, FLUID, CYSTIC_DUCT),
    (SPECIMEN_BAG, CYSTIC_PLATE),
)
_PHASE_ZOOM = (1.06, 0.92, 0.86, 0.94, 1.02, 0.97, 1.14)
_PHASE_TINT = (
    (0.92, 1.00, 1.06),
    (1.00, 1.00, 1.00),
    (1.05, 1.02, 0.96),
    (1.04, 0.98, 0.98),
    (0.97, 1.00, 1.04),
    (0.94, 0.97, 1.00),
    (1.10, 0.95, 0.82),
)
_PHASE_LIGHT = (0.92, 1.0, 1.06, 1.0, 0.98, 0.94, 0.80)


@dataclasses.dataclass(frozen=True)
class Scene:
    """B phantom scenes, all random choices made.

    Attributes:
        phase_B: Phase ids 0..6, int64.
        present_BT: Which of the 14 targets are there, bool (B, 14).
        anchor_BT2: Where an instrument works on each target, world xy (B, 14, 2).
        rotation_B: Roll of the anatomy about the optical axis, radians.
        scale_B: Size of the anatomy, about 1.
        colour_jitter_BT3: Factors on each target's colour, about 1, (B, 14, 3).
        tint_B3: Colour of the light; its level included.
        noise_B8: Phases in [0, 2 pi) of the sinusoids that bend outlines and draw textures.
        zoom_B: Field of view; larger sees more.
        border_B3: Centre x, y and radius of the round field, in view units.
        drift_B8: Camera and breathing motion: amplitudes, rates and phases (see `motion.camera`).
    """

    phase_B: torch.Tensor
    present_BT: torch.Tensor
    anchor_BT2: torch.Tensor
    rotation_B: torch.Tensor
    scale_B: torch.Tensor
    colour_jitter_BT3: torch.Tensor
    tint_B3: torch.Tensor
    noise_B8: torch.Tensor
    zoom_B: torch.Tensor
    border_B3: torch.Tensor
    drift_B8: torch.Tensor

    def to(self, device: torch.device | str) -> Scene:
        """The same scenes on another device."""
        return Scene(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})

    def __len__(self) -> int:
        return len(self.phase_B)


def typical_targets(phase: int) -> frozenset[int]:
    """Target ids that the phantom always shows in a phase."""
    return frozenset((*_FIXTURES, *_PHASE_TARGETS[phase]))


def draw_scenes(
    phase_B: torch.Tensor,
    target_B: torch.Tensor,
    generator: torch.Generator,
    *,
    extras: float = 0.25,
) -> Scene:
    """Draws scenes for phases, in each of which the given target is present.

    Args:
        phase_B: Phase ids 0..6 (CPU, int64).
        target_B: Target ids 0..14 (CPU, int64); 14, the null target, adds nothing.
        generator: CPU generator: the same seed gives the same scenes on every device.
        extras: Chance of each target that the phase does not ask for.

    Returns:
        Scenes on the CPU.
    """
    batch = len(phase_B)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    typical_PT = torch.zeros(len(_PHASE_TARGETS), NUM_TARGETS, dtype=torch.bool)
    for phase in range(len(_PHASE_TARGETS)):
        typical_PT[phase, list(typical_targets(phase))] = True
    present_BT = torch.rand(batch, NUM_TARGETS, generator=generator) < extras
    # A bag before packaging would make the phases look alike.
    present_BT[phase_B < 4, SPECIMEN_BAG] = False
    present_BT |= typical_PT[phase_B]
    # A gallbladder that has left its bed is only there inside a bag.
    wanted_BT = _which(target_B)
    gone_B = (phase_B >= 5) & ~wanted_BT[:, GALLBLADDER]
    present_BT[gone_B, GALLBLADDER] = False
    present_BT |= wanted_BT
    present_BT[:, SPECIMEN_BAG] |= (phase_B >= 4) & present_BT[:, GALLBLADDER]

    anchor_BT2 = torch.tensor(_ANCHORS).expand(batch, -1, -1).clone()
    anchor_BT2 += uniform(-0.045, 0.045, NUM_TARGETS, 2)
    lifted_B = phase_B == 3
    anchor_BT2[lifted_B, GALLBLADDER] = anchor_BT2[lifted_B, GALLBLADDER] + torch.tensor((0.34, 0.02))
    bedded_B = phase_B >= 3
    anchor_BT2[bedded_B, CYSTIC_PLATE] = anchor_BT2[bedded_B, CYSTIC_PLATE] + torch.tensor((-0.12, 0.12))
    bagged_B = phase_B >= 4
    # In packaging the open bag stands below the liver; in extraction it hangs closed at the wall.
    packed_B = phase_B == 4
    anchor_BT2[packed_B, SPECIMEN_BAG] = anchor_BT2[packed_B, SPECIMEN_BAG] + torch.tensor((-0.46, 0.14))
    pulled_B = phase_B == 6
    anchor_BT2[pulled_B, SPECIMEN_BAG] = anchor_BT2[pulled_B, SPECIMEN_BAG] + torch.tensor((-0.62, 0.24))
    anchor_BT2[bagged_B, GALLBLADDER] = anchor_BT2[bagged_B, SPECIMEN_BAG] + torch.tensor((-0.02, 0.06))
    # Its own rim is then the place to take a bag at.
    anchor_BT2[bagged_B, SPECIMEN_BAG] = anchor_BT2[bagged_B, SPECIMEN_BAG] + torch.tensor((-0.02, -0.25))

    tint_B3 = torch.tensor(_PHASE_TINT)[phase_B] * torch.tensor(_PHASE_LIGHT)[phase_B, None]
    tint_B3 = tint_B3 * uniform(0.94, 1.06, 1) * uniform(0.97, 1.03, 3)
    drift_B8 = torch.cat(
        [
            uniform(0.03, 0.10, 2),  # pan amplitude x, y
            uniform(0.05, 0.12, 2),  # pan rate, Hz
            uniform(0.0, 2 * torch.pi, 2),  # pan phase
            uniform(0.01, 0.035, 1),  # breathing amplitude
            uniform(0.0, 2 * torch.pi, 1),  # breathing phase
        ],
        dim=1,
    )
    rotation_B = uniform(-0.22, 0.22)
    scale_B = uniform(0.93, 1.07)
    cos_B, sin_B = torch.cos(rotation_B), torch.sin(rotation_B)
    x_BT, y_BT = anchor_BT2.unbind(-1)
    anchor_BT2 = scale_B[:, None, None] * torch.stack(
        [cos_B[:, None] * x_BT - sin_B[:, None] * y_BT, sin_B[:, None] * x_BT + cos_B[:, None] * y_BT], dim=-1
    )
    return Scene(
        phase_B=phase_B,
        present_BT=present_BT,
        anchor_BT2=anchor_BT2,
        rotation_B=rotation_B,
        scale_B=scale_B,
        colour_jitter_BT3=uniform(0.93, 1.07, NUM_TARGETS, 3) * uniform(0.92, 1.08, NUM_TARGETS, 1),
        tint_B3=tint_B3,
        noise_B8=uniform(0.0, 2 * torch.pi, 8),
        zoom_B=torch.tensor(_PHASE_ZOOM)[phase_B] * uniform(0.96, 1.04),
        border_B3=torch.cat([uniform(-0.03, 0.03, 2), uniform(1.26, 1.36, 1)], dim=1),
        drift_B8=drift_B8,
    )


def with_target(scene: Scene, target_B: torch.Tensor) -> Scene:
    """The scenes with the given target present as well; 14, the null target, adds nothing."""
    return dataclasses.replace(scene, present_BT=scene.present_BT | _which(target_B))


def _which(target_B: torch.Tensor) -> torch.Tensor:
    """Targets as rows of truth values, (B, 14); the null target has none."""
    one_hot = torch.nn.functional.one_hot(target_B.clamp(max=NUM_TARGETS), NUM_TARGETS + 1)
    return one_hot[:, :NUM_TARGETS].bool()


def anatomy_xy(scene: Scene, world_xy_B2: torch.Tensor) -> torch.Tensor:
    """World coordinates in the anatomy's own frame: roll and size undone.

    Args:
        scene: B scenes.
        world_xy_B2: (B, ..., 2) world xy.

    Returns:
        (B, ..., 2).
    """
    extra = (1,) * (world_xy_B2.dim() - 2)
    cos = torch.cos(scene.rotation_B).view(-1, *extra)
    sin = torch.sin(scene.rotation_B).view(-1, *extra)
    x, y = (world_xy_B2 / scene.scale_B.view(-1, *extra, 1)).unbind(-1)
    return torch.stack([cos * x + sin * y, -sin * x + cos * y], dim=-1)
