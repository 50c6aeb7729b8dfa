"""Settings: which source wins, what is refused and in which words, and that a written config reads back."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hierasurg_core.config import (
    EvaluateConfig,
    GenerateConfig,
    LabelConfig,
    TrainConfig,
    TrainM2VConfig,
    TrainS2MConfig,
    load_config,
    to_dict,
    write_config,
)
from hierasurg_core.errors import UsageError


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str = "x"


def generate_config(*sets: str, files: tuple[Path, ...] = (), **options: object) -> GenerateConfig:
    return load_config(GenerateConfig, "generate", files=files, overrides=options, sets=sets)


def train_config(*sets: str, files: tuple[Path, ...] = ()) -> TrainConfig:
    return load_config(TrainConfig, "train-s2m", files=files, overrides={}, sets=sets)


def written(folder: Path, text: str, name: str = "hierasurg.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_later_sources_win(tmp_path: Path) -> None:
    first = written(tmp_path, "generate: {num: 2, seed: 2, steps: 2, guidance: 2}", "a.yaml")
    second = written(tmp_path, "generate: {seed: 3, steps: 3, guidance: 3}", "b.yaml")
    config = generate_config("guidance=5", files=(first, second), steps=4, guidance=4)
    assert (config.fps, config.num, config.seed, config.steps, config.guidance) == (None, 2, 3, 4, 5.0)


def test_an_option_that_was_not_given_wins_over_nothing(tmp_path: Path) -> None:
    assert generate_config(files=(written(tmp_path, "generate: {num: 2}"),), num=None).num == 2


def test_values_are_read_as_their_fields_types(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
generate:
  phase: 1
  out: there/2024-01-01
  contact-sheet: yes
  fps: 8
  guidance: 2
  model: null
train-s2m:
  lr: 1e-4
  warmup: 0
  compile: true
  ema: 0.999
""",
    )
    config = generate_config(files=(file,))
    assert (config.phase, config.out, config.contact_sheet) == ("1", Path("there/2024-01-01"), True)
    assert (config.fps, config.guidance, config.model) == (8, 2.0, None)
    assert isinstance(config.guidance, float)
    training = train_config(files=(file,))
    assert (training.lr, training.warmup, training.compile, training.ema) == (0.0001, 0, True, 0.999)


def test_set_takes_the_section_the_hyphen_and_nothing(tmp_path: Path) -> None:
    config = generate_config("generate.steps=7", "contact-sheet=true", "guidance=null", guidance=3.0)
    assert (config.steps, config.contact_sheet, config.guidance) == (7, True, None)


def test_set_reaches_into_nested_configs(tmp_path: Path) -> None:
    file = written(tmp_path, "outer: {inner: {sizes: [3, 4]}}")
    config = load_config(Outer, "outer", files=[file], overrides={}, sets=["inner.rate=1e-3"])
    assert config == Outer(Inner((3, 4), 0.001), "x")
    with pytest.raises(UsageError, match=r"--set inner\.unknown key 'rat' \(did you mean 'rate'\?\)"):
        load_config(Outer, "outer", files=[], overrides={}, sets=["inner.rat=1"])


def test_empty_files_change_nothing(tmp_path: Path) -> None:
    for text in ("", "generate:", "train-s2m: {steps: 5}", "# nothing"):
        assert generate_config(files=(written(tmp_path, text),)) == GenerateConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("generate: {step: 3}", r"hierasurg\.yaml: generate\.unknown key 'step' \(did you mean 'steps'\?\)"),
        ("genrate: {steps: 3}", r"unknown section 'genrate' \(did you mean 'generate'\?\)"),
        ("steps: 3", "unknown section 'steps'"),
        ("generate: {steps: ten}", r"generate\.steps must be a whole number, not 'ten'"),
        ("generate: {steps: 2.5}", "steps must be a whole number, not '2.5'"),
        ("generate: {steps: [1]}", "steps must be a whole number"),
        ("generate: {guidance: much}", "guidance must be a number, not 'much'"),
        ("generate: {contact_sheet: maybe}", "contact_sheet must be true or false, not 'maybe'"),
        ("generate: {num: null}", "num must be a whole number"),
        ("generate: {fps: 25}", "fps must be one of 1, 8, not '25'"),
        ("generate: {dtype: fp8}", "dtype must be one of auto, bf16, fp16, fp32, not 'fp8'"),
        ("generate: {num: 1, num: 2}", "'num' is given twice"),
        ("generate: {num: 1", r"the config .*hierasurg\.yaml is no YAML: .*line 1"),
        ("generate: 3", "section 'generate' must hold 'key: value' lines"),
        ("[1, 2]", "holds no sections: begin it with 'generate:'"),
    ],
)
def test_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        generate_config(files=(written(tmp_path, text),))
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the config .*none\.yaml: No such file"):
        generate_config(files=(tmp_path / "none.yaml",))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        generate_config(files=(binary,))


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=3", ""])
def test_set_without_a_key_or_value(text: str) -> None:
    with pytest.raises(UsageError, match="is not of the form key=value"):
        generate_config(text)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("num=0", "num must be 1 or more, not 0"),
        ("num=-1", "num must be 1 or more, not -1"),
        ("steps=0", "steps must be 1 or more, not 0"),
        ("seed=-1", "seed must lie between 0"),
        ("seed=9223372036854775808", "seed must lie between 0"),
        ("guidance=nan", "guidance must be 0 or more, not nan"),
        ("guidance=inf", "guidance must be 0 or more, not inf"),
        ("guidance=-1", "guidance must be 0 or more"),
        ("device=gpu", "device must be auto, cpu, cuda, cuda:N or mps, not 'gpu'"),
        ("device=cuda:x", "device must be"),
        ("map=a.png", "map needs frame"),
    ],
)
def test_generate_config_out_of_range(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        generate_config(setting)


@pytest.mark.parametrize("config", [GenerateConfig, LabelConfig, EvaluateConfig])
@pytest.mark.parametrize("name", ["../../x", "", "huge", "~nobody-of-this-name/x", "a" * 300, "a\0b", "."])
def test_a_segmenter_that_does_not_exist_is_refused_also_where_none_is_needed(
    config: Callable[..., object], name: str
) -> None:
    with pytest.raises(UsageError, match="sam"):
        config(sam=name)


def test_a_segmenter_may_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert GenerateConfig(sam=str(tmp_path)).sam == str(tmp_path)


def test_maps_take_the_place_of_the_first_map() -> None:
    start = replace(GenerateConfig(), frame=Path("a.png"), maps=Path("maps"))
    assert start.map is None
    with pytest.raises(UsageError, match="exclude each other"):
        replace(start, map=Path("a_map.png"))


def test_a_config_made_in_code_is_checked_too() -> None:
    with pytest.raises(UsageError, match="fps must be one of 1, 8, not 25"):
        replace(GenerateConfig(), fps=25)


@pytest.mark.parametrize(
    "setting",
    [
        "steps=0",
        "batch=0",
        "accumulate=0",
        "lr=0",
        "lr=nan",
        "warmup=-1",
        "schedule=linear",
        "beta1=1",
        "beta2=-0.1",
        "weight_decay=-1",
        "grad_clip=0",
        "precision=tf32",
        "ema=1",
        "condition_dropout=1.1",
        "condition_dropout=nan",
        "checkpoint_every=0",
        "keep=0",
        "log_every=0",
        "max_seconds=0",
        "resume=",
    ],
)
def test_train_config_out_of_range(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        train_config(setting)


def test_resolved_config_reads_back(tmp_path: Path) -> None:
    config = generate_config("phase=1", "triplet=hook,dissect,liver", "out=a: b", "guidance=1e-5", num=3)
    write_config(tmp_path / "generate.yaml", "generate", config)
    assert generate_config(files=(tmp_path / "generate.yaml",)) == config
    as_json = written(tmp_path, json.dumps({"generate": to_dict(config)}), "generate.json")
    assert generate_config(files=(as_json,)) == config


def test_to_dict_holds_plain_values_in_order() -> None:
    assert to_dict(Outer()) == {"inner": {"sizes": [1, 2], "rate": 0.5}, "name": "x"}
    assert list(to_dict(GenerateConfig()))[:3] == ["phase", "triplet", "frame"]
    assert to_dict(GenerateConfig())["out"] == "samples"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("generate: {out: ~nobody-of-this-name/x}", "there is no home folder of ~nobody-of-this-name"),
        (f"generate: {{out: {'a' * 300}}}", "generate.out 'aaa"),
        ('generate: {frame: "a\\0b"}', "holds a NUL character"),
        (f"generate: {{seed: {'9' * 5000}}}", "(5,000 characters)"),
        (f"generate: {{steps: {'9' * 5000}}}", "(5,000 characters)"),
        (f"generate: {{fps: {'9' * 5000}}}", "(5,000 characters)"),
        (f"generate: {{device: {'9' * 5000}}}", "(5,000 characters)"),
        (f"generate: {{out: [{'a, ' * 100_000}]}}", "must be a path, not ['a', 'a'"),
        (f"generate: {{steps: {{a: [{'a, ' * 100_000}]}}}}", "steps must be a whole number"),
        (f"{'s' * 1000}: 1", "unknown section 'sss"),
        (f"generate: {{{'s' * 1000}: 1}}", "unknown key 'sss"),
        ("[" * 100_000, "nests deeper than 32"),
        ("generate: 1\ngenerate: 2", "line 2: 'generate' is given twice"),
        ("generate: {guidance: 1e999}", "guidance must be 0 or more, not inf"),
    ],
    ids=lambda value: "",
)
def test_a_hostile_file_is_one_short_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        generate_config(files=(path,))
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 1500


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfgenerate: {steps: 7}\n")
    assert generate_config(files=(path,)).steps == 7


def test_runs_that_are_not_the_model_itself_lie_beside_it() -> None:
    assert TrainM2VConfig().run_folder == Path("runs/m2v")
    assert TrainM2VConfig(stage="unconditional").run_folder == Path("runs/m2v-unconditional")
    assert TrainM2VConfig(stage="unconditional", out=Path("a")).run_folder == Path("a")
    assert TrainM2VConfig(distill="mini").run_folder == Path("runs/m2v-student")
    assert TrainS2MConfig(distill="mini").run_folder == Path("runs/s2m-student")
    assert TrainS2MConfig(distill="mini", out=Path("a")).run_folder == Path("a")
