"""What all tests share: how many processes and threads they run in, and which are skipped on this machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; tests' own processes inherit it

from collections.abc import Iterator

import pytest

_MOST_WORKERS = 4  # each holds a torch of its own, up to 3.5 GB
_FEW_FILES = 3


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what tests measure out of the user's cache; tests' own processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Shares the tests among the cores; a few files stay in this process, which need not start others."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    if len(config.args) <= _FEW_FILES and all(".py" in argument for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS) if cores > 1 else 0


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
