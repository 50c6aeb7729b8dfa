"""report.html: whole, alone, escaped, and readable without scripts."""

import base64
import filecmp
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.report.html import write_html
from hierasurg_core.evaluation.report.schema import parse_report, read_report
from hierasurg_core.evaluation.report.wall import Limits

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
VOID = {"meta", "link", "input", "br", "img", "hr", "col"}


class Reader(HTMLParser):
    """Every tag with its attributes, all text, and a check that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def page(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    embedded = write_html(read_report(example), out, example, Limits(samples=3))
    assert len(embedded.samples) == 3
    assert len(embedded.left_out) == 2
    return out


def test_the_page_needs_nothing_but_itself(page: Path):
    reader = read(page)
    for _, attributes in reader.tags:
        for name in ("src", "href", "poster", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (name, value)
    assert not re.search(r"@import|url\(", page.read_text(encoding="utf-8"))


def test_the_policy_admits_just_the_page_s_own_style_and_script(page: Path):
    text = page.read_text(encoding="utf-8")
    policy = next(
        str(meta["content"])
        for meta in read(page).all("meta")
        if meta.get("http-equiv", "") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_page_holds_every_part(page: Path):
    reader = read(page)
    text = " ".join(reader.text)
    for said in (
        *("Real against real", "VAE reconstruction", "Frozen first frame", "Model"),
        *("FVD-mini", "↓ lower is better", "↑ higher is better"),
        *("i3d_torchscript.pt is not in the weights' folder; pass --i3d FILE", "moov atom not found"),
        *("By phase", "By triplet", "Along the clip", "Against the number of samples"),
        *("extractor sha256", "classifier-mini", "the first frame was given to the model"),
    ):
        assert said in text, said
    assert [one.get("class") for one in reader.all("span")].count("badge") == 2
    videos = reader.all("video")
    assert len(videos) == 9
    assert all("controls" in video and "muted" in video and video["aria-label"] for video in videos)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in reader.all("svg"))
    assert len([svg for svg in reader.all("svg") if svg["class"] == "plot"]) == 6


def test_what_only_a_script_can_do_is_hidden_without_one(page: Path):
    reader = read(page)
    (tools,) = [one for one in reader.all("div") if one.get("class") == "tools"]
    (theme,) = [one for one in reader.all("button") if one.get("id") == "theme"]
    assert "hidden" in tools
    assert "hidden" in theme


def test_a_selector_offers_every_metric_that_samples_have(page: Path):
    reader = read(page)
    options = {str(one["value"]): one.get("data-better") for one in reader.all("option")}
    assert options == {"psnr": "higher", "ssim": "higher", "warp-error": "lower", "worst": None, "best": None}
    for card in reader.all("article"):
        assert set(json.loads(str(card["data-values"]))) == {"psnr", "ssim", "warp-error"}


def test_hostile_names_stay_text(example: Path, tmp_path: Path):
    values = json.loads((example / "report.json").read_text())
    sample = values["samples"][0]
    sample.update(name=HOSTILE, phase=HOSTILE, triplet=HOSTILE)
    values["samples"] = [sample]
    metrics = values["metrics"]
    metrics["psnr"].update(title=HOSTILE, unit=HOSTILE, note=HOSTILE, extractor=HOSTILE)
    metrics[HOSTILE] = {**metrics["fvd-mini"], "title": HOSTILE}
    sample["values"][HOSTILE] = 1.0
    values["sides"]["generated"].update(path=HOSTILE, unreadable=[{"file": HOSTILE, "why": HOSTILE}])
    values["left_out"] = [{"metric": HOSTILE, "why": HOSTILE}]
    values["protocol"][HOSTILE] = {HOSTILE: HOSTILE}
    values["models"] = {HOSTILE: {"name": HOSTILE, "digest": HOSTILE}}
    values["notes"] = [HOSTILE]
    values["timing"] = {HOSTILE: 1.0}
    values["plots"]["per_phase"] = {"psnr": {HOSTILE: {"value": 1.0, "count": 1}}}
    write_html(parse_report(values, "here"), tmp_path / "report.html", example)
    reader = read(tmp_path / "report.html")
    assert len(reader.all("script")) == 1
    assert not reader.all("img")
    assert not any("onerror" in attributes for _, attributes in reader.tags)


def test_warnings_stand_above_the_first_figure_and_are_not_said_twice(example: Path, tmp_path: Path):
    values = json.loads((example / "report.json").read_text())
    values["warnings"] = ["FVD: too few"]
    values["notes"] = ["FVD: too few", "made by nobody"]
    write_html(parse_report(values, "here"), tmp_path / "report.html", example)
    body = (tmp_path / "report.html").read_text().split("<body>")[1]
    assert body.count("FVD: too few") == body.count("made by nobody") == 1
    first_figure = min(body.index(mark) for mark in ("<table", "<svg", "<figure", "<video"))
    assert body.index("FVD: too few") < first_figure < body.index("made by nobody")


def test_a_report_of_nothing_is_still_a_page(example: Path, tmp_path: Path):
    values = json.loads((example / "report.json").read_text())
    values.update(metrics={}, samples=[], plots={}, models={}, timing={}, notes=[])
    write_html(parse_report(values, "here"), tmp_path / "report.html", example)
    text = " ".join(read(tmp_path / "report.html").text)
    assert "No metric was measured; the reasons are below." in text


def test_a_page_that_would_read_elsewhere_is_not_written(example: Path, tmp_path: Path):
    values = json.loads((example / "report.json").read_text())
    values["samples"][2]["maps"] = "../../outside.mp4"
    with pytest.raises(DataError, match="outside"):
        write_html(parse_report(values, "here"), tmp_path / "report.html", example)
    assert not list(tmp_path.iterdir())


def test_the_same_report_gives_the_same_page(page: Path, example: Path, tmp_path: Path):
    write_html(read_report(example), tmp_path / "again.html", example, Limits(samples=3))
    assert filecmp.cmp(tmp_path / "again.html", page, shallow=False)
