"""Muon: orthogonal steps for matrices, AdamW for the rest, and a state that goes on."""

import copy

import pytest
import torch

from hierasurg_core.config import TrainConfig
from hierasurg_core.models import S2MTransformer3DModel
from hierasurg_core.training.checkpoint import trained_parameters
from hierasurg_core.training.muon import MuonAdamW, orthogonalised
from hierasurg_core.training.optimizers import build_optimizer
from hierasurg_core.training.stages import moving_weight


def test_singular_values_become_one_and_vectors_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 40, 16), (3, 16, 40)):
        matrices = torch.randn(shape, generator=generator) * torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1)
        found = orthogonalised(matrices)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6
        assert values.max() < 1.3
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        # In its own singular vectors the result is diagonal.
        turned = torch.einsum("nri,nrc,njc->nij", left, found, right)
        off = turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))
        assert off.abs().max() < 1e-3
    assert not orthogonalised(torch.zeros(1, 4, 8)).any()


def test_a_first_step_by_hand() -> None:
    matrix = torch.nn.Parameter(torch.eye(4, 8))
    vector = torch.nn.Parameter(torch.ones(3))
    optimizer = MuonAdamW([matrix, vector], [matrix], lr=0.1, weight_decay=0.5)
    (matrix.sum() + 7 * vector.sum()).backward()
    before = matrix.detach().clone()
    assert matrix.grad is not None
    direction = orthogonalised(matrix.grad.unsqueeze(0))[0]
    optimizer.step()
    torch.testing.assert_close(matrix.detach(), before * 0.95 - 0.1 * 0.2 * 8**0.5 * direction)
    # AdamW's first step is its rate, whatever the gradient.
    torch.testing.assert_close(vector.detach(), torch.full((3,), 0.95 - 0.1), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_the_blocks_matrices_are_muons_and_the_rest_adamws() -> None:
    model = S2MTransformer3DModel(num_attention_heads=2, attention_head_dim=16, num_layers=1)
    optimizer = build_optimizer(trained_parameters(model), TrainConfig(optimizer="muon"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kinds = {name: "momentum" in optimizer.state[parameter] for name, parameter in trained_parameters(model)}
    assert kinds["transformer_blocks.0.attn1.to_q.weight"]
    assert kinds["transformer_blocks.0.norm1.linear.weight"]
    assert not kinds["transformer_blocks.0.attn1.to_q.bias"]
    assert not kinds["triplet_emb.embedding_table.weight"]
    assert not kinds["proj_out.weight"]


def test_a_loaded_state_goes_on_alike() -> None:
    def steps(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, first: int) -> None:
        for turn in range(first, first + 2):
            for parameter in parameters:
                parameter.grad = torch.sin(parameter.detach() * (turn + 1))
            optimizer.step()

    def fresh() -> tuple[list[torch.nn.Parameter], MuonAdamW]:
        torch.manual_seed(1)
        parameters = [torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.randn(5))]
        return parameters, MuonAdamW(parameters, parameters[:1], lr=0.01)

    whole, optimizer = fresh()
    steps(whole, optimizer, 0)
    half, other = fresh()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        for mine, theirs in zip(half, whole, strict=True):
            mine.copy_(theirs)
    steps(whole, optimizer, 2)
    steps(half, other, 2)
    for mine, theirs in zip(half, whole, strict=True):
        assert torch.equal(mine, theirs)


def test_moving_places_weigh_more_and_the_mean_is_one() -> None:
    maps = torch.zeros(1, 3, 2, 2, 2)
    maps[0, 1:, :, 0, 0] = 3.0
    weight = moving_weight(maps, 4.0)
    assert weight.shape == (1, 1, 1, 2, 2)
    assert weight.mean().item() == pytest.approx(1)
    strayed = 9 * 2 / 3
    moved = 1 + 4 * strayed / (strayed + 0.5)
    assert (weight[..., 0, 0] / weight[..., 1, 1]).item() == pytest.approx(moved)
    assert torch.equal(moving_weight(maps, 0.0), torch.ones(1, 1, 1, 2, 2))
