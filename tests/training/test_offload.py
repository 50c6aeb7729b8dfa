import copy

import torch
from torch import nn

from hierasurg_core.training.offload import OffloadedAdamW

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 1e-2}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(5, 6, generator=draw)).square().mean().backward()
        optimizer.step()


def test_moments_that_wait_on_the_host_change_nothing(monkeypatch):
    monkeypatch.setattr("hierasurg_core.training.offload._CHUNK", 20)
    plain, other = network(), network()
    steps(plain, torch.optim.AdamW(plain.parameters(), fused=True, **SETTINGS), 4, 1)
    steps(other, OffloadedAdamW(other.parameters(), **SETTINGS), 4, 1)
    for ours, theirs in zip(other.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_saved_and_loaded_it_goes_on():
    model = network()
    optimizer = OffloadedAdamW(model.parameters(), **SETTINGS)
    steps(model, optimizer, 2, 1)
    again = copy.deepcopy(model)
    other = OffloadedAdamW(again.parameters(), **SETTINGS)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, 2, 2)
    steps(again, other, 2, 2)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
