"""What `extract` does when a file, the disk, or its own process ends early."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numbered_videos import even_ticks, numbers_in, write_video

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config import ExtractConfig
from hierasurg_core.datasets.extract import ExtractResult, extract, read_manifest
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.progress import SilentProgress


def run(source: Path | None, out: Path, **settings: Any) -> ExtractResult:
    return extract(ExtractConfig(source=source, out=out, **settings), SilentProgress())


def folder_digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def front_loaded(path: Path, scratch: Path) -> None:
    """Moves an mp4's index to its front, so that a cut file still opens."""
    with (
        av.open(str(path)) as source,
        av.open(str(scratch), "w", format="mp4", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    scratch.replace(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for suffix in (".mp4", ".mkv", ".avi"):
        write_video(folder / f"video01{suffix}", even_ticks(250, 1), time_base=Fraction(1, 25))
    front_loaded(folder / "video01.mp4", folder / "part.mp4")
    return folder


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_cut_off_video_fails_alone(whole: Path, tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    data = (whole / f"video01{suffix}").read_bytes()
    (source / f"video01{suffix}").write_bytes(data[: len(data) * 6 // 10])
    (source / "video02.mp4").write_bytes((whole / "video01.mp4").read_bytes())
    result = run(source, tmp_path / "out")
    assert [video.name for video in result.videos] == ["video02"]
    assert [(failure.name, failure.exit_code) for failure in result.failures] == [("video01", 3)]
    assert "cut off" in result.failures[0].message
    assert result.exit_code == 3
    kept = numbers_in(tmp_path / "out" / "video01")
    assert kept == [25 * index for index in range(len(kept))]
    assert 3 <= len(kept) < 10
    with pytest.raises(DataError, match="not finished"):
        read_manifest(tmp_path / "out" / "video01")
    (source / f"video01{suffix}").write_bytes(data)
    assert run(source, tmp_path / "out").exit_code == 0
    assert numbers_in(tmp_path / "out" / "video01") == [25 * index for index in range(10)]


def test_videos_that_are_none(whole: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    data = (whole / "video01.mp4").read_bytes()
    (source / "video01.mp4").write_bytes(b"")
    (source / "video02.mp4").write_text("hello")
    (source / "video03.mp4").write_bytes(data[: data.index(b"mdat")])
    write_video(source / "video04.mp4", [])
    result = run(source, tmp_path / "out")
    assert result.videos == ()
    assert {failure.exit_code for failure in result.failures} == {3}
    for failure in result.failures:
        assert f"{failure.name}.mp4" in failure.message
        assert "\n" not in failure.message


def damaged(whole: Path, path: Path) -> None:
    """Overwrites the picture data of the packets of frames 100 to 104."""
    data = bytearray((whole / "video01.mp4").read_bytes())
    with av.open(str(whole / "video01.mp4")) as container:
        packets = [(packet.pos, packet.size, packet.pts) for packet in container.demux(video=0)]
    noise = np.random.default_rng(0)
    for position, size, pts in packets:
        if pts is not None and 100 <= pts // 512 <= 104 and position is not None:
            begin = position + 6
            data[begin : position + size] = noise.bytes(position + size - begin)
    path.write_bytes(data)


def test_undecodable_frames_in_the_middle_keep_the_count(whole: Path, tmp_path: Path) -> None:
    damaged(whole, tmp_path / "video01.mp4")
    result = run(tmp_path / "video01.mp4", tmp_path / "out", fps=25.0)
    assert result.exit_code == 0
    assert result.videos[0].undecodable > 0
    found = numbers_in(tmp_path / "out" / "video01")
    assert len(found) == 250
    assert found[:100] == list(range(100))
    assert found[120:] == list(range(120, 250)), "after the next key frame all is well"
    strict = run(tmp_path / "video01.mp4", tmp_path / "strict", strict=True)
    assert "which --strict refuses" in strict.failures[0].message
    assert strict.exit_code == 3
    again = run(tmp_path / "video01.mp4", tmp_path / "out", fps=25.0, strict=True)
    assert again.exit_code == 3, "what was done without --strict is no excuse"


def test_done_is_done_and_changed_is_redone(whole: Path, tmp_path: Path) -> None:
    source = tmp_path / "video01.mp4"
    source.write_bytes((whole / "video01.mp4").read_bytes())
    run(source, tmp_path / "out", fps=2.0)
    first = tmp_path / "out" / "video01" / "000000.jpg"
    before = first.stat().st_mtime_ns
    assert run(source, tmp_path / "out", fps=2.0).videos[0].skipped
    assert first.stat().st_mtime_ns == before
    first.unlink()
    assert not run(source, tmp_path / "out", fps=2.0).videos[0].skipped
    assert numbers_in(tmp_path / "out" / "video01")[0] == 0
    assert not run(source, tmp_path / "out", fps=1.0).videos[0].skipped
    assert len(numbers_in(tmp_path / "out" / "video01")) == 10
    write_video(source, even_ticks(50, first=0))
    assert not run(source, tmp_path / "out", fps=1.0).videos[0].skipped
    assert len(numbers_in(tmp_path / "out" / "video01")) == 2


def test_frames_of_others_stay(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "video01").mkdir(parents=True)
    (tmp_path / "out" / "video01" / "000000.jpg").write_text("mine")
    result = run(whole / "video01.mp4", tmp_path / "out")
    assert "did not write" in result.failures[0].message
    assert (tmp_path / "out" / "video01" / "000000.jpg").read_text() == "mine"


def test_a_full_disk(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "000004" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        result = run(whole / "video01.mp4", tmp_path)
    assert result.exit_code == 5
    assert "the disk is full" in result.failures[0].message
    assert not (tmp_path / "video01" / "000004.jpg").exists()
    assert not list((tmp_path / "video01").glob(".*"))
    assert run(whole / "video01.mp4", tmp_path).exit_code == 0
    assert len(numbers_in(tmp_path / "video01")) == 10


def test_a_killed_process_goes_on(whole: Path, tmp_path: Path) -> None:
    source = whole / "video01.mp4"
    run(source, tmp_path / "straight", fps=25.0, quality=100)
    line = [sys.executable, "-m", "hierasurg_cli", "extract", str(source), "out"]
    line += ["--fps", "25", "--quality", "100", "--quiet"]
    folder = tmp_path / "out" / "video01"
    killed = 0
    for enough in (1, 60, 120, 180):
        process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL)
        while process.poll() is None and (
            not folder.is_dir() or sum(name.endswith(".jpg") for name in os.listdir(folder)) < enough
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        found = list(folder.glob("[0-9]*.jpg"))
        assert all(path.read_bytes().endswith(b"\xff\xd9") for path in found), "frames are whole"
    assert killed
    assert subprocess.run(line, cwd=tmp_path, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert folder_digests(folder) == folder_digests(tmp_path / "straight" / "video01")


def test_a_manifest_of_another_kind_is_refused(whole: Path, tmp_path: Path) -> None:
    run(whole / "video01.mp4", tmp_path)
    manifest = tmp_path / "video01" / "extract.json"
    content = json.loads(manifest.read_text())
    for wrong, said in (({**content, "schema": 0}, "schema"), ({"schema": 1, "complete": True}, "damaged")):
        manifest.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=said):
            read_manifest(tmp_path / "video01")
    manifest.write_text(json.dumps(content))
    (tmp_path / "video01" / "000003.jpg").unlink()
    with pytest.raises(DataError, match="lacks 1 of 10 frames, first 000003"):
        read_manifest(tmp_path / "video01")


def test_nothing_to_extract(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="IN is missing"):
        run(None, tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match="holds neither videos"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Noted(SilentProgress):
    """Remembers what the user would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def with_maps(whole: Path, folder: Path, *, by_label: bool = True) -> Path:
    """Frames at 1 fps with what label leaves beside them."""
    run(whole / "video01.mp4", folder, fps=1.0)
    masks = folder / "video01_masks"
    masks.mkdir()
    (masks / "000000.pkl").write_bytes(b"a map")
    (folder / "video01_overlay.mp4").write_bytes(b"a video")
    if by_label:
        (masks / "label.json").write_text("{}")
    return masks


@pytest.mark.parametrize("change", [{"fps": 2.0}, {"size": "16x16"}, {"end": 5.0}, {"quality": 80}])
def test_frames_that_have_maps_stay(whole: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    masks = with_maps(whole, tmp_path)
    before = folder_digests(tmp_path / "video01")
    with pytest.raises(DataError) as caught:
        run(whole / "video01.mp4", tmp_path, **{"fps": 1.0, **change})
    assert str(caught.value) == (
        f"{tmp_path}/video01: 10 frames at 1 fps with maps in {masks} would be replaced by other frames: "
        "give another OUT, or --overwrite, which deletes these frames and maps"
    )
    assert folder_digests(tmp_path / "video01") == before
    assert (masks / "000000.pkl").read_bytes() == b"a map"
    assert run(whole / "video01.mp4", tmp_path, fps=1.0).videos[0].skipped


def test_overwrite_replaces_frames_and_deletes_their_maps(whole: Path, tmp_path: Path) -> None:
    masks = with_maps(whole, tmp_path)
    told = Noted()
    config = ExtractConfig(source=whole / "video01.mp4", out=tmp_path, fps=0.5, overwrite=True)
    result = extract(config, told)
    assert (result.exit_code, result.videos[0].num_frames) == (0, 5)
    assert told.notes == [
        f"{tmp_path}/video01: 10 frames at 1 fps are replaced",
        f"{masks}: the maps of the frames before are deleted",
    ]
    assert sorted(path.name for path in (tmp_path / "video01").iterdir()) == [
        *(f"00000{index}.jpg" for index in range(5)),
        "extract.json",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extract.yaml", "video01"]
    again = Noted()
    assert extract(config, again).videos[0].skipped
    assert again.notes == []


def test_frames_without_maps_are_replaced_and_it_is_said(whole: Path, tmp_path: Path) -> None:
    run(whole / "video01.mp4", tmp_path, fps=1.0)
    told = Noted()
    result = extract(ExtractConfig(source=whole / "video01.mp4", out=tmp_path, fps=2.0), told)
    assert result.videos[0].num_frames == 20
    assert told.notes == [f"{tmp_path}/video01: 10 frames at 1 fps are replaced"]


def test_maps_of_others_are_never_deleted(whole: Path, tmp_path: Path) -> None:
    masks = with_maps(whole, tmp_path, by_label=False)
    result = run(whole / "video01.mp4", tmp_path, fps=2.0, overwrite=True)
    assert result.failures[0].message == (
        f"{masks} holds maps that label did not write (label.json is missing): move them away, or give "
        "another OUT"
    )
    assert (masks / "000000.pkl").read_bytes() == b"a map"
    assert len(numbers_in(tmp_path / "video01")) == 10
