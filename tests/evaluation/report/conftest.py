"""One small example of a report for all tests of its reading and drawing."""

from pathlib import Path

import pytest
from evaluation.report.example_report import write_example


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with report.json and the videos that it names."""
    folder = tmp_path_factory.mktemp("example")
    write_example(folder, 5, size_hw=(32, 48))
    return folder
