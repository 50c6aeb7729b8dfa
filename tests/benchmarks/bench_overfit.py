"""Both stages learn one phantom batch by heart: `python tests/benchmarks/bench_overfit.py [cuda]`.

200 steps on 4 phantom clips with the same noise and times in every step; the loss must fall below 5 % of its
start. The models are the recipe's, from scratch; the latents are those of the bundled VAE.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from hierasurg_core.config import TrainConfig
from hierasurg_core.models import (
    M2VTransformer3DModel,
    S2MTransformer3DModel,
    load_scheduler,
    start_as_identity,
)
from hierasurg_core.models.hub import local_folder
from hierasurg_core.phantom.encoded import draw_together
from hierasurg_core.phantom.recipe import M2V_CONFIG, S2M_CONFIG
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import make_generator
from hierasurg_core.training import Batch, Draws, LatentCacheSource, M2VStage, S2MStage, train
from hierasurg_core.training.stages import SquaredLoss, VelocityModel

CLIPS, STEPS = 4, 200


class FixedDraws(SquaredLoss):
    """A stage whose noise and times are the same at every step."""

    def __init__(self, stage: S2MStage | M2VStage, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self.name, self.inputs = stage.name, stage.inputs

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        return self.stage.prediction_and_target(model, batch, Draws(make_generator(0, self.device)))


class InOrder(LatentCacheSource):
    """The same clips in the same order each time."""

    def _epoch_order(self) -> tuple[Tensor, Tensor]:
        return torch.arange(CLIPS), torch.zeros(CLIPS, dtype=torch.float64)


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    folder = local_folder("mini")
    alpha_bar_T = load_scheduler(folder).alphas_cumprod.to(device)
    for name in ("s2m", "m2v"):
        torch.manual_seed(0)
        clips, _ = draw_together(name, folder / "vae", CLIPS, 0, device)
        model = S2MTransformer3DModel(**S2M_CONFIG) if name == "s2m" else M2VTransformer3DModel(**M2V_CONFIG)
        start_as_identity(model)
        stage = S2MStage(alpha_bar_T) if name == "s2m" else M2VStage(alpha_bar_T, hierarchical=True)
        config = TrainConfig(
            steps=STEPS,
            batch=CLIPS,
            lr=2e-3,
            warmup=10,
            schedule="cosine",
            precision="fp32",
            gradient_checkpointing=False,
            checkpoint_every=STEPS,
            keep=1,
            log_every=1,
            device=str(device),
        )
        with tempfile.TemporaryDirectory() as out:
            source = InOrder(clips, CLIPS)
            train(model, FixedDraws(stage, device), source, config, Path(out), SilentProgress())
            lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        share = losses[-1] / losses[0]
        print(f"{name}: loss {losses[0]:.4f} -> {losses[-1]:.4f}, {share:.1%} of its start")
        assert share < 0.05


if __name__ == "__main__":
    main()
