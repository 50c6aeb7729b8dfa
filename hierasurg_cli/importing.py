"""The import of torch and all that hangs on it: how the user is told of it, and what it costs besides.

Owns the garbage collector's part in that: half a million objects come and stay, so looking through them is
lost time, while they come and once more when Python ends (two seconds of a short run together).
"""

import contextlib
import gc
import sys
from collections.abc import Generator

from hierasurg_core.progress import Progress


@contextlib.contextmanager
def importing(progress: Progress) -> Generator[None, None, None]:
    """Tells of the imports in the block; the garbage collector looks at what they make neither now nor later.

    Where torch is loaded already there is nothing to spare, and what else lives is none of ours.
    """
    progress.start("import torch", 1, "module")
    if "torch" in sys.modules:
        yield
    else:
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
        gc.freeze()
    progress.advance()
