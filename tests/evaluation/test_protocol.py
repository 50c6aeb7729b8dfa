import dataclasses
import json
from typing import Any

import pytest

from hierasurg_core.config import to_dict
from hierasurg_core.errors import UsageError
from hierasurg_core.evaluation.protocol import (
    PRESETS,
    Protocol,
    compare,
    load_protocol,
    protocol_from_dict,
    save_protocol,
)

COMPLETE = dataclasses.replace(
    PRESETS["hierasurg"],
    num_real=4000,
    fps=1.0,
    stride=1,
    interpolation="bilinear",
    antialias=True,
    extractor_sha256="0" * 64,
    ddof=1,
    kernel_subset_size=1000,
    seed=0,
    first_frame_counts=False,
)


@pytest.mark.parametrize("protocol", [*PRESETS.values(), COMPLETE], ids=lambda p: p.name)
def test_files_and_json_give_it_back(protocol: Protocol, tmp_path):
    save_protocol(tmp_path / "protocol.yaml", protocol)
    assert load_protocol(str(tmp_path / "protocol.yaml")) == protocol
    values = json.loads(json.dumps(to_dict(protocol)))
    assert protocol_from_dict(values) == protocol
    (tmp_path / "protocol.json").write_text(json.dumps({"protocol": values}))
    assert load_protocol(str(tmp_path / "protocol.json")) == protocol


def test_presets_say_what_they_do_not_know():
    assert load_protocol("cd-fvd") is PRESETS["cd-fvd"]
    assert PRESETS["hierasurg"].num_generated == 4000
    assert PRESETS["hierasurg"].unknown == (
        "num_real",
        "fps",
        "stride",
        "interpolation",
        "antialias",
        "extractor_sha256",
        "ddof",
        "kernel_subset_size",
        "seed",
        "first_frame_counts",
    )
    assert "kernel_subsets" not in PRESETS["styleganv"].unknown  # it has no kernel
    assert not COMPLETE.unknown


def test_equal_protocols_compare_whatever_they_are_called():
    compare(COMPLETE, dataclasses.replace(COMPLETE, name="other"))


def test_differing_and_unknown_facts_are_named():
    other = dataclasses.replace(COMPLETE, fps=8.0, resize="stretch")
    with pytest.raises(UsageError, match=r"differ in fps \(1.0 against 8.0\), resize \(shorter-side against"):
        compare(COMPLETE, other)
    with pytest.raises(UsageError, match=r"differ in seed \(0 against unknown\);"):
        compare(COMPLETE, dataclasses.replace(COMPLETE, seed=None))
    unsaid = dataclasses.replace(COMPLETE, fps=None)
    with pytest.raises(UsageError, match="leave open fps;"):
        compare(unsaid, unsaid)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"num_real": 40}, "measure both again with --num 40"),
        ({"num_generated": None}, "measure both again with two clips a side or more"),
        ({"fps": 0.5}, "measure both again with --fps 0.5 --stride 1 --clip-frames 8"),
        ({"fps": 0.5, "stride": 2}, "measure both again with --fps 0.5 --stride 1 --clip-frames 8"),
        ({"clip_frames": 5}, "measure both again with --fps 1 --stride 1 --clip-frames 5"),
        ({"fps": 8.0}, "no options make them the same: at 1 frames a second the shorter clips have 2 frames"),
        ({"seed": 3, "num_real": 64}, "measure both again with --num 64 --seed 3"),
        ({"first_frame_counts": True}, "measure both again with --first-frame"),
        ({"name": "cd-fvd", "ddof": 0}, "measure both again with --protocol hierasurg"),
        ({"extractor": "mini", "resize": "stretch"}, "measure both again with the same --weights-dir"),
    ],
)
def test_the_advice_names_the_options_that_make_two_reports_alike(changes: dict[str, Any], advice: str):
    with pytest.raises(UsageError) as refused:
        compare(COMPLETE, dataclasses.replace(COMPLETE, **changes), ("a", "b"))
    assert str(refused.value).startswith("'a' and 'b' differ in ")
    assert f"; {advice}" in str(refused.value)


def test_an_own_protocol_is_asked_for_as_a_file():
    own = dataclasses.replace(COMPLETE, name="own")
    with pytest.raises(UsageError, match=r"again with one --protocol FILE$"):
        compare(own, dataclasses.replace(own, ddof=0))


def test_facts_that_mean_nothing_do_not_keep_reports_apart():
    a, b = (dataclasses.replace(COMPLETE, kernel="none", kernel_subsets=n) for n in (100, None))
    compare(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_real": 1}, "num_real must be 2 or more, not 1"),
        ({"fps": float("nan")}, "fps must be more than 0"),
        ({"ddof": 2}, "ddof must be 0 or 1"),
        ({"extractor_sha256": "AB"}, "64 hexadecimal digits"),
        ({"resize": "squash"}, "resize must be one of shorter-side, stretch, extractor"),
        ({"clip_frame": 16}, "did you mean 'clip_frames'"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        protocol_from_dict(to_dict(COMPLETE) | change)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(UsageError, match="no file, and none of hierasurg, styleganv, cd-fvd"):
        load_protocol("fvd")
