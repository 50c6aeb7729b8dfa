"""Which names samples get in a folder that holds samples already."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from full_disk import largest_file
from generation.test_generate import Told, run
from generation.test_requests import NO_WORDS, files

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import GenerateConfig, write_config
from hierasurg_core.errors import DataError, ResourceError
from hierasurg_core.generation.naming import own_file, settle_names
from hierasurg_core.generation.records import writing_sample
from hierasurg_core.generation.request import Start
from hierasurg_core.generation.requests import Job
from hierasurg_core.generation.storyboard import Story
from hierasurg_core.pictures import read_image


def unread() -> Start:
    raise AssertionError("only its fingerprint is asked for")


def names(
    out: Path, fingerprints: str, own: Sequence[str] = (), *, resume: bool = True, looks: bool = True
) -> list[str]:
    """Names of a request whose samples have these fingerprints, a letter each; `own` ones come last."""
    called = [*(f"{index:04d}" for index in range(len(fingerprints) - len(own))), *own]
    jobs = [Job(name, 0, unread) for name in called]
    by_name = dict(zip(called, fingerprints, strict=True))

    def fingerprint_of(unit: Job | Story) -> str:
        assert looks, "nothing is there that it could be compared with"
        return by_name[unit.name]

    config = GenerateConfig(phase="calot", out=out, resume=resume)
    return settle_names(config, jobs, fingerprint_of)


def finished(out: Path, name: str, fingerprint: str) -> None:
    (out / f"{name}.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (out / f"{name}.mp4").touch()


def test_an_empty_folder_is_not_looked_into(tmp_path: Path) -> None:
    assert names(tmp_path, "abc", looks=False) == ["0000", "0001", "0002"]
    assert names(tmp_path / "none", "ab", ["mine"], looks=False) == ["0000", "mine"]


def test_the_same_request_finds_its_samples_and_another_goes_on_behind_them(tmp_path: Path) -> None:
    finished(tmp_path, "0000", "a")
    finished(tmp_path, "0001", "b")
    assert names(tmp_path, "ab") == ["0000", "0001"]
    assert names(tmp_path, "ba") == ["0001", "0000"]
    assert names(tmp_path, "abc") == ["0000", "0001", "0002"]
    assert names(tmp_path, "cd") == ["0002", "0003"]
    assert names(tmp_path, "cd", resume=False) == ["0002", "0003"]
    finished(tmp_path, "0002", "x")
    assert names(tmp_path, "abcd") == ["0000", "0001", "0003", "0004"]


def test_equal_samples_have_a_name_each(tmp_path: Path) -> None:
    finished(tmp_path, "0000", "a")
    assert names(tmp_path, "aaa") == ["0000", "0001", "0002"]
    finished(tmp_path, "0004", "a")
    assert names(tmp_path, "aaa") == ["0000", "0004", "0005"]


@pytest.mark.parametrize("left", [".0001.unfinished", "0001_parts/story.json"])
def test_a_sample_that_a_killed_run_began_keeps_its_name(left: str, tmp_path: Path) -> None:
    finished(tmp_path, "0000", "a")
    finished(tmp_path, "0002", "c")
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("b" if left.endswith("unfinished") else '{"fingerprint": "b"}')
    assert names(tmp_path, "abcd") == ["0000", "0001", "0002", "0003"]
    assert names(tmp_path, "xy") == ["0003", "0004"]


def test_gaps_of_a_killed_run_are_filled_again(tmp_path: Path) -> None:
    finished(tmp_path, "0001", "b")
    finished(tmp_path, "0003", "d")
    assert names(tmp_path, "abcde") == ["0000", "0001", "0002", "0003", "0004"]


@pytest.mark.parametrize(
    "file", ["0003.mp4", "0003.gif", "0003_overlay.mp4", "0003_frames/000000.png", "0003", "0003.txt"]
)
def test_files_that_nobody_knows_are_passed(file: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert names(tmp_path, "ab") == ["0004", "0005"]


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"fingerprint": 3}'])
def test_a_record_that_says_nothing_is_passed(content: str, tmp_path: Path) -> None:
    (tmp_path / "0000.json").write_text(content)
    assert names(tmp_path, "a") == ["0001"]


def test_names_of_the_users_own_are_never_changed(tmp_path: Path) -> None:
    finished(tmp_path, "mine", "a")
    assert names(tmp_path, "a", ["mine"]) == ["mine"]
    with pytest.raises(DataError) as caught:
        names(tmp_path, "b", ["mine"])
    assert str(caught.value) == (
        f"{tmp_path}/mine was made by another request, model or setting: give another --out, or --no-resume "
        "to replace it"
    )
    assert names(tmp_path, "b", ["mine"], resume=False) == ["mine"]
    (tmp_path / "film.mp4").touch()
    with pytest.raises(DataError, match="film was made by another"):
        names(tmp_path, "b", ["film"])
    finished(tmp_path, "0000", "x")
    assert names(tmp_path, "abc", ["0001"]) == ["0002", "0003", "0001"]


def test_the_plain_files_stay_with_the_request_that_has_them(tmp_path: Path) -> None:
    first = GenerateConfig(phase="calot", out=tmp_path)
    assert own_file(first, "contact_sheet.png", "0000") == tmp_path / "contact_sheet.png"
    write_config(tmp_path / "generate.yaml", "generate", first)
    same = GenerateConfig(phase="calot", out=tmp_path, num=9, gif=True, resume=False, contact_sheet=True)
    assert own_file(same, "generate.yaml", "0000") == tmp_path / "generate.yaml"
    other = GenerateConfig(phase="preparation", out=tmp_path)
    assert own_file(other, "generate.yaml", "0009") == tmp_path / "generate_0009.yaml"
    assert own_file(other, "contact_sheet.png", "mine") == tmp_path / "contact_sheet_mine.png"
    (tmp_path / "generate.yaml").write_text("generate: [")
    assert own_file(first, "generate.yaml", "0000") == tmp_path / "generate_0000.yaml"


def test_two_requests_share_a_folder(assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    run(assets, tmp_path, num=2, contact_sheet=True)
    before = {path: sha256_file(path) for path in out.iterdir()}
    told = Told()
    result = run(assets, tmp_path, told, phase="preparation", contact_sheet=True)
    assert f"{out} holds samples of other requests, which stay: this one's are 0002" in told.notes
    assert [sample.record.name for sample in result.samples] == ["0002.json"]
    assert result.contact_sheet == out / "contact_sheet_0002.png"
    assert (
        read_image(out / "contact_sheet_0002.png").shape[0] == 20 + 2 * 132 + 4 + 22
    )  # a strip and its legend
    assert {path: sha256_file(path) for path in before} == before
    again = Told()
    kept = run(assets, tmp_path, again, phase="preparation", contact_sheet=True)
    assert [(sample.record.name, sample.kept) for sample in kept.samples] == [("0002.json", True)]
    assert again.stages == []
    assert sorted(path.name for path in out.glob("*.yaml")) == ["generate.yaml", "generate_0002.yaml"]


def test_further_forms_of_a_sample_join_it(assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    run(assets, tmp_path, gif=True)
    before = files(out)
    sample = run(assets, tmp_path, overlay=True).samples[0]
    assert not sample.kept
    assert {name: files(out)[name] for name in before} == before
    assert read_json(out / "0000.json")["outputs"] == {"overlay": "0000_overlay.mp4", "gif": "0000.gif"}
    assert run(assets, tmp_path, gif=True, overlay=True).samples[0].kept


def test_no_resume_replaces_a_named_sample_with_all_its_files(assets: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("phase,name\ncalot,mine\n")
    out = tmp_path / "samples"
    run(assets, tmp_path, **NO_WORDS, requests=wanted, gif=True)
    first = sha256_file(out / "mine.mp4")
    wanted.write_text("phase,name\npreparation,mine\n")
    with pytest.raises(DataError, match="mine was made by another request"):
        run(assets, tmp_path, **NO_WORDS, requests=wanted)
    assert sha256_file(out / "mine.mp4") == first
    run(assets, tmp_path, **NO_WORDS, requests=wanted, resume=False)
    assert sha256_file(out / "mine.mp4") != first
    assert not (out / "mine.gif").exists()


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_an_error_takes_away_what_it_left_of_a_new_sample(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "0001.mp4").touch()
    with pytest.raises(type(error)), writing_sample(tmp_path, "0000", "a"):
        assert (tmp_path / ".0000.unfinished").read_text() == "a"
        (tmp_path / "0000_maps.mp4").touch()
        (tmp_path / "0000_frames").mkdir()
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["0001.mp4"]


def test_a_full_disk_leaves_no_sample_half_written(assets: Path, tmp_path: Path) -> None:
    run(assets, tmp_path)
    before = files(tmp_path / "samples")
    size = max(path.stat().st_size for path in (tmp_path / "samples").glob("*.mp4")) // 2
    with largest_file(size), pytest.raises(ResourceError, match="larger than a file may be here"):
        run(assets, tmp_path, seed=1)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "0000.json",
        "0000.mp4",
        "0000_maps.mp4",
        "generate.yaml",
    ]
    assert files(tmp_path / "samples") == before


def test_an_error_leaves_a_sample_that_was_there(tmp_path: Path) -> None:
    finished(tmp_path, "0000", "a")
    with pytest.raises(RuntimeError), writing_sample(tmp_path, "0000", "a"):
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.json", "0000.mp4"]
