import gc
import sys

import pytest

from hierasurg_cli.importing import importing
from hierasurg_core.progress import SilentProgress


@pytest.fixture
def collector():
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    yield
    gc.enable()
    if not frozen:
        gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_the_collector_rests_while_torch_is_imported_and_forgets_what_came(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    before = gc.get_freeze_count()
    with importing(SilentProgress()):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


@pytest.mark.usefixtures("collector")
def test_an_import_that_fails_leaves_the_collector_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ImportError, match="gone"), importing(SilentProgress()):
        raise ImportError("gone")
    assert gc.isenabled()


@pytest.mark.usefixtures("collector")
def test_where_torch_is_loaded_the_collector_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    before = gc.get_freeze_count()
    with importing(SilentProgress()):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
