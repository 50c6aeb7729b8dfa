"""Docstrings and comments name only documents that a reader of this repository has."""

import re
from pathlib import Path

import pytest

import hierasurg_cli
import hierasurg_core

PACKAGES = [Path(str(package.__file__)).parent for package in (hierasurg_core, hierasurg_cli)]
_DOCUMENT = re.compile(r"[\w./-]+\.md\b|\breference-model\b")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_named_document_is_in_the_repository(package: Path):
    files = [package.parent / "README.md", *package.rglob("*.md")]
    there = {file.name for file in files if file.name == "README.md" or file.is_file()}
    missing = [
        f"{file.relative_to(package.parent)}:{number}: {name}"
        for file in sorted(package.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for name in _DOCUMENT.findall(line)
        if Path(name).name not in there
    ]
    assert missing == []
