import shutil
from pathlib import Path

import pytest
from generation.tiny_assets import write_assets


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and scenes; tests only read them."""
    return write_assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture
def own_assets(assets: Path, tmp_path: Path) -> Path:
    """A copy of them to damage."""
    return Path(shutil.copytree(assets, tmp_path / "assets"))
