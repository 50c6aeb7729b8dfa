"""Frame folders: `videoNN/NNNNNN.jpg` numbered from 000000, with the manifest `extract.json` beside them.

Owns the manifest, the writing of single frames, and what counts as a black one. It refuses folders whose
extraction has not finished or whose frames are not all there. Loads no torch.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core import artifacts
from hierasurg_core.datasets.numbering import number_images, suffixes_in_words
from hierasurg_core.errors import DataError
from hierasurg_core.pictures import fit_image, read_head, read_image

MANIFEST = "extract.json"
SCHEMA = 1

_BLACK_BELOW = 16  # of 255, for the brightest 8x8 block's mean: what coding leaves of a black frame
_MIB = 1 << 20
_PHANTOM = "hierasurg phantom"  # how the comment of the phantom's videos begins
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class FrameFolder:
    """A video as frames on disk.

    Attributes:
        folder: Where they are.
        name: "videoNN".
        fps: Frames a second; None for a folder that `extract` did not write.
        num_frames: How many, numbered from 000000.
        size_hw: Of each.
        black: Indices of frames outside the body, which are all black.
        digest: Of the source, see `file_digest`; of the frames themselves where the source is not known.
        start: The second of the video that frame 000000 shows.
        comment: What the maker of the video wrote into it; "" for nothing.
        pixels: What `extract` did to the source's pixels ("rotated 90 degrees clockwise"); empty for nothing.
        paths: The files of the frames in a folder that `extract` did not write; None: `NNNNNN.jpg`.
    """

    folder: Path
    name: str
    fps: float | None
    num_frames: int
    size_hw: tuple[int, int]
    black: frozenset[int] = field(repr=False)
    digest: str
    start: float = 0.0
    comment: str = ""
    pixels: tuple[str, ...] = ()
    paths: tuple[Path, ...] | None = field(default=None, repr=False)

    @property
    def is_phantom(self) -> bool:
        """Whether the video says that it shows the phantom (`python -m hierasurg_core.phantom`)."""
        return self.comment.startswith(_PHANTOM)

    def frame_path(self, index: int) -> Path:
        """The file of one frame."""
        if self.paths is not None and index < len(self.paths):
            return self.paths[index]
        return self.folder / f"{index:06d}.jpg"


def read_manifest(folder: Path) -> FrameFolder:
    """Reads what a frame folder holds, from its manifest, or from its files where it has none.

    Without a manifest the rate is unknown, and black frames are found by looking at every frame.

    Raises:
        DataError: The folder is missing or empty, its extraction is not finished, frames are missing, or
            the manifest is of another schema.
    """
    manifest = folder / MANIFEST
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of frames: it does not exist")
    if not manifest.exists():
        return _read_plain(folder)
    content = artifacts.read_json(manifest)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{manifest} is no manifest of schema {SCHEMA}: extract the video again")
    if content.get("complete") is not True:
        raise DataError(f"{folder} is not finished: run the same 'hierasurg extract' again")
    try:
        result = FrameFolder(
            folder=folder,
            name=str(content["name"]),
            fps=float(content["fps"]),
            num_frames=int(content["num_frames"]),
            size_hw=(int(content["size_hw"][0]), int(content["size_hw"][1])),
            black=frozenset(int(index) for index in content["black"]),
            digest=str(content["digest"]),
            start=float(content["settings"]["start"]),
            comment=str(content.get("comment", "")),
            pixels=tuple(str(done) for done in content.get("pixels", ())),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{manifest} is damaged ({error!r}): extract the video again") from error
    missing = missing_frames(folder, result.num_frames)
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {result.num_frames} frames, first {missing[0]:06d}.jpg: "
            "run the same 'hierasurg extract' again"
        )
    return result


def missing_frames(folder: Path, num_frames: int) -> list[int]:
    """Numbers below `num_frames` that have no JPEG in the folder."""
    present = {entry.name for entry in os.scandir(folder)}
    return [index for index in range(num_frames) if f"{index:06d}.jpg" not in present]


def is_black(image: bytes) -> bool:
    """Whether an encoded JPEG is black all over; False for what is no picture."""
    blocks_HW = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return blocks_HW is not None and int(blocks_HW.max()) < _BLACK_BELOW


def is_black_picture(path: Path) -> bool:
    """Whether a picture file of any kind is black all over; False for one that cannot be read."""
    try:
        if read_head(path).plain_jpeg:
            return is_black(read_bytes(path))
        grey_HW = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
    except DataError:  # whoever uses the frame says so, and may leave it out
        return False
    size_wh = max(1, grey_HW.shape[1] // 8), max(1, grey_HW.shape[0] // 8)
    return int(cv2.resize(grey_HW, size_wh, interpolation=cv2.INTER_AREA).max()) < _BLACK_BELOW


def is_whole_jpeg(image: bytes) -> bool:
    """Whether an encoded JPEG has its end; an atomically written one lacks it only after a power cut."""
    return image.endswith(_JPEG_END)


def encode_jpeg(picture_HWC: NDArray[np.uint8], quality: int) -> bytes:
    """Encodes a picture, blue first, as a baseline JPEG; the same pixels give the same bytes."""
    _, data = cv2.imencode(".jpg", picture_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def write_frame(folder: Path, indices: Iterable[int], image: bytes) -> None:
    """Writes one encoded picture as the frames of these numbers, each whole or not at all.

    Raises:
        ResourceError: The disk is full or may not be written.
    """
    for index in indices:
        with artifacts.atomic_file(folder / f"{index:06d}.jpg", durable=False) as part:
            part.write_bytes(image)


def shape_picture(
    picture_HWC: NDArray[np.uint8], crop_hw: tuple[int, int] | None, size_hw: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """Cuts the middle out of a picture, then resizes it, cropped to the size's shape and never stretched."""
    if crop_hw is not None:
        top, left = ((a - b) // 2 for a, b in zip(picture_HWC.shape[:2], crop_hw, strict=True))
        picture_HWC = picture_HWC[top : top + crop_hw[0], left : left + crop_hw[1]]
    return np.ascontiguousarray(picture_HWC) if size_hw is None else fit_image(picture_HWC, size_hw)


def file_digest(path: Path) -> str:
    """Tells versions of a large file apart: SHA-256 of its size and of its first, middle and last MiB.

    Operations take gigabytes, and reading them whole would cost as much as decoding them. A change that
    keeps the size and spares these three parts goes unseen.

    Raises:
        DataError: The file is missing or unreadable.
    """
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            for at in sorted({0, max(0, size // 2 - _MIB // 2), max(0, size - _MIB)}):
                file.seek(at)
                digest.update(file.read(_MIB))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def images_digest(paths: Sequence[Path]) -> str:
    """The same for a folder of images: their names and sizes, and `file_digest` of three of them.

    Raises:
        DataError: One is missing or unreadable.
    """
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    for path in {paths[0]: None, paths[len(paths) // 2]: None, paths[-1]: None} if paths else {}:
        digest.update(file_digest(path).encode())
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """Reads a file whole.

    Raises:
        DataError: It is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def manifest_state(folder: Path) -> dict[str, Any]:
    """What `extract` left in a folder: its manifest, finished or not; empty where there is none.

    Raises:
        DataError: The manifest is unreadable.
    """
    path = folder / MANIFEST
    content = artifacts.read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise DataError(f"{path} is no manifest: delete the folder {folder} and extract the video again")
    return content


def _read_plain(folder: Path) -> FrameFolder:
    images = number_images(folder)
    if images.fault is not None:
        raise DataError(images.fault)
    if not images.by_number:
        raise DataError(f"{folder} holds no frames: they are called 000000.jpg, 000001.jpg, ...")
    for expected, (number, path) in enumerate(images.by_number.items()):
        if number != expected:
            raise DataError(
                f"{folder} lacks frame {expected:06d} (then comes {path.name}): frames are numbered from 0 "
                "without holes; 'hierasurg extract' renumbers them into another folder"
            )
    paths = images.paths
    if mixed := suffixes_in_words(paths):
        raise DataError(
            f"{folder} mixes kinds of files ({mixed}): keep one kind, or let 'hierasurg extract' make JPEGs "
            "of all"
        )
    black = [number for number, path in enumerate(paths) if is_black_picture(path)]
    return FrameFolder(
        folder=folder,
        name=folder.name,
        fps=None,
        num_frames=len(paths),
        size_hw=read_head(paths[0]).size_hw,
        black=frozenset(black),
        digest=images_digest(paths),
        paths=paths,
    )
