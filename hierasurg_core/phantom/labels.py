"""How a new model's triplet vectors begin: as sums of their parts.

Owns that start. Refuses: the rows' training, which is like everything else's.
"""

from __future__ import annotations

from typing import cast

import torch

from hierasurg_core import taxonomy
from hierasurg_core.errors import UsageError
from hierasurg_core.models import CogVideoXStack
from hierasurg_core.models.backbone import AdaLayerNorm, CogVideoXLayerNormZero
from hierasurg_core.models.conditioning import LabelEmbedding

_LENGTH = 2.0


@torch.no_grad()
def name_triplets_by_parts(model: CogVideoXStack) -> None:
    """Makes each triplet's vector the sum of its instrument's, verb's and target's, one axis each.

    A hundred rows drawn at random hide that triplets share their targets: what is learned of one then helps
    no other. The linears that steer the norms forget what they knew of the rows before.

    Raises:
        UsageError: The table is narrower than the parts are many, or the model takes text vectors.
    """
    instruments, verbs, targets = len(taxonomy.INSTRUMENTS), len(taxonomy.VERBS), len(taxonomy.TARGETS)
    if not isinstance(model.triplet_emb, LabelEmbedding):
        raise UsageError("triplets by parts need a model with text_cond 'labels'")
    table = model.triplet_emb.embedding_table.weight
    if table.shape[1] < instruments + verbs + targets:
        raise UsageError(
            f"condition_embed_dim is {table.shape[1]}: triplets by parts need {instruments + verbs + targets}"
        )
    table.zero_()
    for triplet in taxonomy.TRIPLETS:
        axes = (triplet.instrument_id, instruments + triplet.verb_id, instruments + verbs + triplet.target_id)
        table[triplet.id + 1, list(axes)] = _LENGTH
    condensed = int(model.config["condense_dim"])
    for module in model.modules():
        if isinstance(module, CogVideoXLayerNormZero | AdaLayerNorm):
            cast(torch.nn.Linear, module.linear).weight[:, -condensed:] = 0
