"""Paths as users write them.

Owns what a text may be to name a file at all. Whether anything is there is asked elsewhere.
"""

from pathlib import Path

from hierasurg_core.errors import UsageError, shown

MAX_NAME_BYTES = 255  # of one part of a path, on every common file system
MAX_PATH_BYTES = 4095


def as_path(name: str, text: str) -> Path:
    """Reads a path; "~" and "~user" become home folders.

    Args:
        name: What the path is of, for messages ("out").
        text: The path.

    Raises:
        UsageError: The text is empty, holds a NUL or half a character, has a part longer than 255 bytes, or
            names a user whom this machine does not know.
    """
    if not text:
        raise UsageError(f"{name} must be a path, not ''")
    if "\0" in text:
        raise UsageError(f"{name} {shown(text)} is no path: it holds a NUL character")
    try:
        lengths = [len(part.encode(errors="surrogateescape")) for part in text.split("/")]
        path = Path(text).expanduser()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} {shown(text)} is no path: it holds text that is not Unicode") from error
    except RuntimeError as error:
        user = text.partition("/")[0]
        raise UsageError(
            f"{name} {shown(text)}: there is no home folder of {user}; write ./{user} for a folder "
            "of that name, or the whole path"
        ) from error
    if max(lengths) > MAX_NAME_BYTES or sum(lengths) + len(lengths) > MAX_PATH_BYTES:
        raise UsageError(
            f"{name} {shown(text)} is too long for a path: give at most {MAX_NAME_BYTES} bytes a part and "
            f"{MAX_PATH_BYTES} in all"
        )
    return path
