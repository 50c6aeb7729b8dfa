from pathlib import Path

import pytest

from hierasurg_core.datasets.splits import choose_splits, published_lists, read_list
from hierasurg_core.errors import DataError, UsageError

FOUND = [f"video{number:02d}" for number in range(101, 121)]


def test_published_lists_are_those_of_the_paper() -> None:
    lists = published_lists()
    assert len(lists["train"]) == 63
    assert lists["val"] == ("video48", "video62")


def test_published_split_where_all_videos_are_in_it() -> None:
    splits = choose_splits(["video01", "video02", "video62"])
    assert splits.names == {"train": ("video01", "video02"), "val": ("video62",)}
    assert splits.note == "published split: 2 train, 1 val"
    assert splits.of("video62") == "val"


@pytest.mark.parametrize("found", [FOUND, ["video01", "video02"], ["video01", "video48", "video99"]])
def test_else_a_tenth_by_chance(found: list[str]) -> None:
    splits = choose_splits(found)
    assert sorted([*splits.names["train"], *splits.names["val"]]) == found
    assert len(splits.names["val"]) == max(1, len(found) // 10)
    assert choose_splits(found[::-1]).names == splits.names


def test_chance_is_seeded() -> None:
    assert len({choose_splits(FOUND, val_fraction=0.5, seed=seed).names["val"] for seed in range(5)}) == 5
    assert choose_splits(FOUND, val_fraction=0).names["val"] == ()
    assert choose_splits(["video101"]).names == {"train": ("video101",), "val": ()}


def test_lists_win_and_one_alone_leaves_the_rest(tmp_path: Path) -> None:
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("VID101\n\n# a comment\nvideo102  # another\n")
    val.write_text("Video103\n")
    assert read_list(train) == ("video101", "video102")
    both = choose_splits(FOUND, train=train, val=val)
    assert both.names == {"train": ("video101", "video102"), "val": ("video103",)}
    assert both.note == "split by list: 2 train, 1 val, 17 in neither list"
    assert both.of("video110") is None
    assert len(choose_splits(FOUND, val=val).names["train"]) == 19
    assert len(choose_splits(FOUND, train=train).names["val"]) == 18


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ("video101\nvideo101\n", "video102", "line 2: video101 is listed twice"),
        ("liver\n", "video102", "line 1: 'liver' names no operation"),
        ("# none\n", "video102", "names none"),
        ("video101\nvideo99\n", "video102", "names video99, which is not among the 20 videos found"),
        ("video101\n", "video101", "video101 is in .*: a video trains or validates, not both"),
        (None, "\n".join(FOUND), "no video is left to train on"),
    ],
)
def test_bad_lists_are_refused(train: str | None, val: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text(val)
    if train is not None:
        (tmp_path / "train.txt").write_text(train)
    path = None if train is None else tmp_path / "train.txt"
    with pytest.raises(DataError, match=said):
        choose_splits(FOUND, train=path, val=tmp_path / "val.txt")


def test_missing_list_and_list_with_fraction_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the list of videos"):
        choose_splits(FOUND, train=tmp_path / "none.txt")
    with pytest.raises(UsageError, match="val_fraction excludes"):
        choose_splits(FOUND, train=tmp_path / "none.txt", val_fraction=0.1)
