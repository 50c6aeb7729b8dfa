"""Options that several commands share, the resolution of a command's config, and what Tab offers.

Owns the order in which settings win: defaults, `hierasurg.yaml` of the working folder, `--config`, options,
`--set`. Imports no torch, so that help and completion stay fast.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from hierasurg_core.config import given_settings, load_config
from hierasurg_core.taxonomy import PHASES, TRIPLETS

Config = TypeVar("Config")

CONFIG_OF_FOLDER = Path("hierasurg.yaml")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show what the libraries say.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML with settings; wins over ./hierasurg.yaml."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting; wins over everything. Repeatable."),
]
Gpus = Annotated[
    int | None, typer.Option(metavar="N", help="Processes, each on a GPU of its own (default: 1).")
]
Nodes = Annotated[int, typer.Option(metavar="N", help="Machines that work together, N GPUs each.")]
NodeRank = Annotated[int, typer.Option(metavar="N", help="This machine's number, from 0.")]
Rendezvous = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Address of machine 0, where all machines meet.")
]


def resolve(
    cls: type[Config],
    ctx: typer.Context,
    config_file: Path | None,
    sets: Sequence[str] | None,
    preset: Path | None = None,
) -> Config:
    """Builds the config of the running command out of its files, options and `--set`.

    An option belongs to the config's field of the same name; one that was not typed gives nothing. Numbers
    arrive as text, so that their type, like their range, is judged in one place and in one way of speaking.
    `preset` is a config file of the package, the weakest of all.

    Raises:
        UsageError: As `load_config`.
    """
    return load_config(cls, str(ctx.info_name), **_sources(cls, ctx, config_file, sets, preset))


def given_by(
    cls: type[Config],
    ctx: typer.Context,
    config_file: Path | None,
    sets: Sequence[str] | None,
    preset: Path | None = None,
) -> dict[str, str]:
    """Returns which settings of the running command were given, and by what; takes what `resolve` takes."""
    return given_settings(cls, str(ctx.info_name), **_sources(cls, ctx, config_file, sets, preset))


def _sources(
    cls: type[Config],
    ctx: typer.Context,
    config_file: Path | None,
    sets: Sequence[str] | None,
    preset: Path | None,
) -> dict[str, Any]:
    """Returns the arguments of `load_config` that name files, options and `--set`."""
    options: dict[str, Any] = ctx.params
    names = {field.name for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    files = [preset] if preset else []
    files += [CONFIG_OF_FOLDER] if CONFIG_OF_FOLDER.is_file() else []
    return {
        "files": [*files, config_file] if config_file else files,
        "overrides": {name: value for name, value in options.items() if name in names and _typed(ctx, name)},
        "sets": sets or (),
    }


def _typed(ctx: typer.Context, name: str) -> bool:
    """Tells whether an option was typed; its default must not win over a file."""
    source = ctx.get_parameter_source(name)
    return source is None or source.name not in ("DEFAULT", "DEFAULT_MAP")


def complete_phase(incomplete: str) -> list[str]:
    """Offers the phases; "cal" leads to the anatomical spelling of the data set's "carlot"."""
    calot = incomplete.lower().startswith("cal")
    return [name.replace("carlot", "calot") if calot else name for name in PHASES]


def complete_triplet() -> list[str]:
    """Offers the triplets that exist."""
    return [triplet.name for triplet in TRIPLETS]
