"""What all tests share: where there is no GPU, or no published weights, their tests are skipped."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("HIERASURG_WEIGHTS"):
        _skip(items, "weights", "HIERASURG_WEIGHTS names no folder with the published weights")
    if any("gpu" in item.keywords for item in items):
        import torch

        if not torch.cuda.is_available():
            _skip(items, "gpu", "there is no CUDA device")


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
