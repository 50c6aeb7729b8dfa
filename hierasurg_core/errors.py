"""The errors a user can cause, each with the exit code of the command line.

A message is one line that names the thing, says why it is refused and what to do. Whatever is no
`HieraSurgError` is a bug and keeps its traceback; errors of foreign libraries are translated where they
arise, never here.
"""


class HieraSurgError(Exception):
    """Something the user can put right; `exit_code` is what the program ends with."""

    exit_code = 1


class UsageError(HieraSurgError):
    """A wrong option, config key, phase, triplet, size or number."""

    exit_code = 2


class DataError(HieraSurgError):
    """A file of the user that is missing, damaged, or of another size or form than asked for."""

    exit_code = 3


class WeightsError(HieraSurgError):
    """A model folder that lacks a part, or tensors of another shape than its config says."""

    exit_code = 4


class ResourceError(HieraSurgError):
    """Disk, memory or GPU: full, not writable, too small or absent."""

    exit_code = 5


def shown(value: object, most: int = 60) -> str:
    """Returns a value as a message quotes it: its `repr`, cut in the middle where it is long.

    Example:
        >>> shown("9" * 5000, most=12)
        "'9999 ... (5,000 characters)"
    """
    if isinstance(value, (str, bytes)):
        whole, length = repr(value[: 4 * most]), len(value)
    else:
        whole = repr(value)
        length = len(whole)
    if len(whole) <= most and length <= most:
        return whole
    return f"{whole[: most - 7]} ... ({length:,} characters)"
