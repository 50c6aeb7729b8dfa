"""The wall: which samples are embedded, from where, and how large."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.report import wall
from hierasurg_core.evaluation.report.schema import Metric, Value
from hierasurg_core.evaluation.report.wall import Card, Limits, Pane, build_wall, chosen_order
from hierasurg_core.video import read_video, write_mp4


def metric(better: str) -> Metric:
    way = "lower" if better == "lower" else "higher"
    return Metric(better, "", way, False, None, {"model": Value(1.0, None, 1)}, None, None)


def card(name: str, root: Path, path: str | None, **values: float) -> Card:
    return Card(name, ("calot",), (Pane("Generated", path, root),), values)


def test_the_worst_and_best_by_each_metric_come_first():
    root = Path()
    cards = [
        card("a", root, None, up=0.1, down=3),
        card("b", root, None, up=0.9, down=2),
        card("c", root, None, up=0.5, down=9),
        card("d", root, None, up=0.4, down=1),
        card("e", root, None),
    ]
    order = chosen_order(cards, {"up": metric("higher"), "down": metric("lower")})
    assert "".join(cards[index].name for index in order) == "abcde"
    order = chosen_order(cards, {"down": metric("lower")})
    assert "".join(cards[index].name for index in order) == "cdabe"


def test_a_limit_of_samples_leaves_the_others_out_by_name(tmp_path: Path):
    cards = [card(name, tmp_path, None, up=index) for index, name in enumerate("abcd")]
    built = build_wall(cards, {"up": metric("higher")}, Limits(samples=2), 40)
    assert built.embedded.samples == ("a", "d")
    assert built.embedded.left_out == (("b", "more than 2 samples"), ("c", "more than 2 samples"))
    assert "2 of 40 clips are on this page" in built.html
    assert "more than 2 samples: 2 (b, c)" in built.html


def test_a_limit_of_size_leaves_out_what_does_not_fit(example: Path):
    cards = [card(f"{index:04d}", example, f"real/{index:04d}.mp4") for index in range(3)]
    one = build_wall(cards[:1], {}, Limits(), 1).embedded.bytes
    built = build_wall(cards, {}, Limits(megabytes=1.5 * one / 1e6), 3)
    assert built.embedded.samples == ("0000",)
    assert built.embedded.bytes == one
    assert [name for name, _ in built.embedded.left_out] == ["0001", "0002"]


def test_a_small_video_is_embedded_as_it_is(example: Path):
    built = build_wall([card("0000", example, "real/0000.mp4")], {}, Limits(), 1)
    (text,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', built.html)
    assert base64.b64decode(text) == (example / "real" / "0000.mp4").read_bytes()
    assert "reduced" not in built.html.replace(text, "")


def test_a_large_video_is_scaled_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wall, "_SMALL_BYTES", 1000)
    noise = np.random.default_rng(0).integers(0, 255, (6, 60, 90, 3), np.uint8)
    write_mp4(tmp_path / "a.mp4", noise, 5)
    built = build_wall([card("a", tmp_path, "a.mp4")], {}, Limits(px=45), 1)
    (text,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', built.html)
    (tmp_path / "small.mp4").write_bytes(base64.b64decode(text))
    frames, fps = read_video(tmp_path / "small.mp4")
    assert frames.shape == (6, 30, 44, 3)
    assert fps == 5
    assert "reduced to 45 px" in built.html


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../secret.mp4", "clips/../../secret.mp4", "..\\secret.mp4", "C:\\x.mp4", "a\0.mp4"],
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str):
    with pytest.raises(DataError, match="no relative path inside"):
        build_wall([card("a", tmp_path, path)], {}, Limits(samples=0), 1)


def test_a_link_that_leads_out_is_refused(tmp_path: Path, example: Path):
    inside = tmp_path / "report"
    inside.mkdir()
    (inside / "a.mp4").symlink_to(example / "real" / "0000.mp4")
    with pytest.raises(DataError, match="a link that leads out"):
        build_wall([card("a", inside, "a.mp4")], {}, Limits(), 1)


def test_what_cannot_be_shown_says_why(tmp_path: Path):
    (tmp_path / "torn.mp4").write_bytes(b"\0\0\0\x18ftypmp42 avc1")
    panes = tuple(
        Pane(name, path, tmp_path) for name, path in (("Real", None), ("Maps", "no.mp4"), ("G", "torn.mp4"))
    )
    built = build_wall([Card("a", (), panes, {})], {}, Limits(), 1)
    absent = re.findall(r'class="absent">([^<]+)<', built.html)
    assert absent == ["none", "the file is missing", "no readable video"]
    assert "<video" not in built.html
