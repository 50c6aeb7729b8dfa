from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_datasets import build, config, write_operation, write_vae


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The models of these tests are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def operations(tmp_path: Path) -> Path:
    """Three videos, of which the second has a black frame, and a model; nothing is built."""
    write_operation(tmp_path, 1, 18)
    write_operation(tmp_path, 2, 22, black=(3,))
    write_operation(tmp_path, 3, 17)
    write_vae(tmp_path / "model")
    return tmp_path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, built; not to be changed."""
    root = tmp_path_factory.mktemp("built")
    write_operation(root, 1, 18)
    write_operation(root, 2, 22, black=(3,))
    write_operation(root, 3, 17)
    write_vae(root / "model")
    build(config(root, flip=0.5))
    return root
