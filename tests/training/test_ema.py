import pytest
import torch
from torch import nn

from hierasurg_core.errors import WeightsError
from hierasurg_core.training.ema import Ema


def layer(value: float) -> nn.Linear:
    made = nn.Linear(1, 1, bias=False)
    made.weight.data.fill_(value)
    return made


def test_average_by_hand() -> None:
    model = layer(0.0)
    ema = Ema(model, 0.2)
    model.weight.data.fill_(1.0)
    ema.update(1)  # decay 0.1: 0.1 * 0 + 0.9 * 1
    with ema.applied():
        assert model.weight.item() == pytest.approx(0.9)
    model.weight.data.fill_(2.0)
    ema.update(2)  # decay 2 / 11 = 0.1818: 0.1818 * 0.9 + 0.8182 * 2
    ema.update(9)  # decay 0.2, not 9 / 18
    with ema.applied():
        assert model.weight.item() == pytest.approx(0.2 * 1.8 + 0.8 * 2)
    assert model.weight.item() == 2.0


def test_decay_grows_to_what_was_asked() -> None:
    ema = Ema(layer(0.0), 0.99)
    assert [ema.decay_at(step) for step in (1, 9, 891, 100_000)] == [0.1, 0.5, 0.99, 0.99]


def test_live_weights_return_also_after_an_error() -> None:
    model = layer(0.0)
    ema = Ema(model, 0.9)
    model.weight.data.fill_(1.0)
    with pytest.raises(KeyboardInterrupt), ema.applied():
        raise KeyboardInterrupt
    assert model.weight.item() == 1.0


def test_averages_are_float32_and_buffers_the_live_ones() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).bfloat16()
    ema = Ema(model, 0.9)
    model[1].get_buffer("running_mean").fill_(3.0)
    with ema.applied():
        state = model.state_dict()
    assert state["1.running_mean"].item() == 3.0
    assert state["0.weight"].dtype == torch.float32


def test_loading_takes_parameters_by_name() -> None:
    model = layer(0.0)
    ema = Ema(model, 0.9)
    ema.load({"weight": torch.full((1, 1), 5.0), "running_mean": torch.zeros(1)})
    with ema.applied():
        assert model.weight.item() == 5.0
    with pytest.raises(WeightsError, match="at weight"):
        ema.load({"weight": torch.zeros(2, 1)})
    with pytest.raises(WeightsError, match="at weight"):
        ema.load({})
