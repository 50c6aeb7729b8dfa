"""The table that metrics go into: which of them get a place."""

import pytest

from hierasurg_core.evaluation.distances import RoleValue
from hierasurg_core.evaluation.table import Table


@pytest.mark.parametrize(
    ("model", "frozen", "vae", "place", "vae_place"),
    [(20, 20, 20, 0.5, 0.1), (19, 20, 20, None, 0.1), (20, 19, 20, None, None), (20, 20, 19, 0.5, None)],
)
def test_fewer_than_20_clips_have_no_place(
    model: int, frozen: int, vae: int, place: float | None, vae_place: float | None
):
    table = Table(replicates=0, seed=0)
    counts = {"real": 10, "frozen": frozen, "vae": vae, "model": model}  # real against real is of halves
    values = {role: RoleValue(1.0, None, count) for role, count in counts.items()}
    table.add("fvd", "FVD", values, better="lower", places={"model": 0.5, "vae": 0.1})
    assert (table.metrics["fvd"]["place"], table.metrics["fvd"]["vae_place"]) == (place, vae_place)
