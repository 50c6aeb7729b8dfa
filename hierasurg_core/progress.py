"""How long work of the core reports that it goes on, without knowing who listens.

The core takes a `Progress` and never prints; the command line draws it, tests and libraries pass
`SilentProgress`.
"""

from typing import Protocol


class Progress(Protocol):
    """A listener to one command's stages, in the order in which they happen."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Ends the stage before it, if any, and begins another.

        Args:
            stage: What is done now, in lower case ("sample maps").
            total: How many units it has; None where that is not known.
            unit: What is counted, in the plural ("steps").
        """
        ...

    def advance(self, n: int = 1) -> None:
        """Counts `n` more finished units of the current stage."""
        ...

    def note(self, message: str) -> None:
        """Tells the user one line worth knowing (a choice that was made for them, say)."""
        ...


class SilentProgress:
    """A `Progress` that listens to nothing."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Does nothing."""

    def advance(self, n: int = 1) -> None:
        """Does nothing."""

    def note(self, message: str) -> None:
        """Does nothing."""
