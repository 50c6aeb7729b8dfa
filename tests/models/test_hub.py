"""What the Hub is asked for, and what is said where it cannot be asked; no test uses a network."""

from pathlib import Path

import pytest

from hierasurg_core.errors import WeightsError
from hierasurg_core.models import hub

NOBODY = "http://127.0.0.1:9"  # the discard port: refuses at once


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an address where nobody answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOBODY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path


def in_cache(cache: Path, repository: str, file: str) -> Path:
    """Lay a file where the Hub's client keeps it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    path = folder / "snapshots" / commit / file
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return path


def test_a_folder_that_cannot_be_fetched_is_one_line(cache: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(WeightsError) as caught:
        hub.local_folder("some/model", ["vae"])
    said = str(caught.value)
    assert said.startswith(
        f"some/model is no folder here, and the Hub does not give it: the cache {cache} lacks"
    )
    assert f"{NOBODY} cannot be reached" in said
    assert said.endswith("give a folder that holds it, or 'mini'")
    assert capfd.readouterr() == ("", "")  # no word of the client's retries


def test_a_file_that_cannot_be_fetched_says_what_to_do(cache: Path):
    with pytest.raises(WeightsError, match=rf"x\.pt of some/model is not here.*{cache}.*; give it as --x"):
        hub.fetch_file("some/model", "x.pt", instead="give it as --x")


def test_an_offline_client_is_not_asked(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids to ask"):
        hub.fetch_file("some/model", "x.pt", instead="give it as --x")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids to ask"):
        hub.local_folder("some/model")


def test_what_the_cache_holds_needs_no_network(cache: Path):
    path = in_cache(cache, "some/model", "vae/config.json")
    assert hub.fetch_file("some/model", "vae/config.json", instead="-") == path
    assert hub.local_folder("some/model", ["vae"]) == path.parent.parent


def test_code_of_a_repository_is_not_waited_for(cache: Path):
    with pytest.raises(WeightsError, match="some/model@0123 is not here"):
        hub.expect_repository("some/model", "0123", instead="use another")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../x", "./x", "~/x"])
def test_a_path_that_is_no_hub_id_is_a_missing_folder(cache: Path, name: str):
    with pytest.raises(
        WeightsError, match=r"there is no model folder .*: give a folder, a Hub id, or 'mini'"
    ):
        hub.local_folder(name)
