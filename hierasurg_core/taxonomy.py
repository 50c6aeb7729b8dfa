"""The vocabulary of CholecT50: phases, instruments, verbs, targets and the 100 triplets that exist.

Owns the ids (positions in the tuples) and the forgiving reading of names. It refuses every triplet that
the data set does not have, and any text that fits two names, and says what would have fitted. Names are
the data set's own, phase 1's "carlot" included (Source: the CholecT50 documentation and the label maps of
ivtmetrics).
"""

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hierasurg_core.errors import UsageError, shown

PHASES: tuple[str, ...] = (
    "preparation",
    "carlot-triangle-dissection",
    "clipping-and-cutting",
    "gallbladder-dissection",
    "gallbladder-packaging",
    "cleaning-and-coagulation",
    "gallbladder-extraction",
)

_LONGEST_NAME = 200  # characters, however it is written
# The same phases as others write them: anatomists, Cholec80's phase files, and clinicians.
_SPELLINGS: tuple[tuple[str, ...], ...] = (
    PHASES,
    tuple(name.replace("carlot", "calot") for name in PHASES),
    tuple(name.replace("extraction", "retraction") for name in PHASES),
    tuple(name.replace("carlot-triangle", "hepatocystic-triangle") for name in PHASES),
    tuple(name.replace("gallbladder", "gb").replace("packaging", "packing") for name in PHASES),
    tuple(name.replace("packaging", "retrieval-bag").replace("extraction", "removal") for name in PHASES),
    tuple(name.replace("coagulation", "haemostasis") for name in PHASES),
    tuple(name.replace("coagulation", "hemostasis") for name in PHASES),
)

INSTRUMENTS: tuple[str, ...] = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator")

VERBS: tuple[str, ...] = (
    "grasp",
    "retract",
    "dissect",
    "coagulate",
    "clip",
    "cut",
    "aspirate",
    "irrigate",
    "pack",
    "null_verb",
)

TARGETS: tuple[str, ...] = (
    "gallbladder",
    "cystic_plate",
    "cystic_duct",
    "cystic_artery",
    "cystic_pedicle",
    "blood_vessel",
    "fluid",
    "abdominal_wall_cavity",
    "liver",
    "adhesion",
    "omentum",
    "peritoneum",
    "gut",
    "specimen_bag",
    "null_target",
)

# "instrument verb: targets", in the order of the triplets' ids.
_TRIPLETS_IN_ORDER = (
    "grasper dissect: cystic_plate gallbladder omentum",
    (
        "grasper grasp: cystic_artery cystic_duct cystic_pedicle cystic_plate gallbladder gut liver omentum "
        "peritoneum specimen_bag"
    ),
    "grasper pack: gallbladder",
    "grasper retract: cystic_duct cystic_pedicle cystic_plate gallbladder gut liver omentum peritoneum",
    (
        "bipolar coagulate: abdominal_wall_cavity blood_vessel cystic_artery cystic_duct cystic_pedicle "
        "cystic_plate gallbladder liver omentum peritoneum"
    ),
    "bipolar dissect: adhesion cystic_artery cystic_duct cystic_plate gallbladder omentum",
    "bipolar grasp: cystic_plate liver specimen_bag",
    "bipolar retract: cystic_duct cystic_pedicle gallbladder liver omentum",
    (
        "hook coagulate: blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate gallbladder "
        "liver omentum"
    ),
    "hook cut: blood_vessel peritoneum",
    "hook dissect: blood_vessel cystic_artery cystic_duct cystic_plate gallbladder omentum peritoneum",
    "hook retract: gallbladder liver",
    "scissors coagulate: omentum",
    "scissors cut: adhesion blood_vessel cystic_artery cystic_duct cystic_plate liver omentum peritoneum",
    "scissors dissect: cystic_plate gallbladder omentum",
    "clipper clip: blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate",
    "irrigator aspirate: fluid",
    "irrigator dissect: cystic_duct cystic_pedicle cystic_plate gallbladder omentum",
    "irrigator irrigate: abdominal_wall_cavity cystic_pedicle liver",
    "irrigator retract: gallbladder liver omentum",
    *(f"{instrument} null_verb: null_target" for instrument in INSTRUMENTS),
)


@dataclass(frozen=True)
class Triplet:
    """What one instrument does to what: `Triplet(17, "grasper", "retract", "gallbladder")`.

    Attributes:
        id: Position in `TRIPLETS`, 0 to 99.
        instrument: One of `INSTRUMENTS`.
        verb: One of `VERBS`.
        target: One of `TARGETS`.
    """

    id: int
    instrument: str
    verb: str
    target: str

    @property
    def name(self) -> str:
        """The way CholecT50 writes it: "grasper,retract,gallbladder"."""
        return f"{self.instrument},{self.verb},{self.target}"

    @property
    def instrument_id(self) -> int:
        """Position of the instrument in `INSTRUMENTS`."""
        return INSTRUMENTS.index(self.instrument)

    @property
    def verb_id(self) -> int:
        """Position of the verb in `VERBS`."""
        return VERBS.index(self.verb)

    @property
    def target_id(self) -> int:
        """Position of the target in `TARGETS`."""
        return TARGETS.index(self.target)


def _read_triplets(lines: Iterable[str]) -> tuple[Triplet, ...]:
    triplets: list[Triplet] = []
    for line in lines:
        action, targets = line.split(":")
        instrument, verb = action.split()
        triplets += [Triplet(len(triplets) + i, instrument, verb, to) for i, to in enumerate(targets.split())]
    return tuple(triplets)


TRIPLETS: tuple[Triplet, ...] = _read_triplets(_TRIPLETS_IN_ORDER)


def triplets_of(instrument: str) -> tuple[Triplet, ...]:
    """Returns the triplets of one of `INSTRUMENTS`, by rising id."""
    return tuple(triplet for triplet in TRIPLETS if triplet.instrument == instrument)


def _expect_short(what: str, text: str) -> None:
    """Refuses a text that is longer than any name, before the nearest names are looked for."""
    if len(text) > _LONGEST_NAME:
        raise UsageError(f"{what} {shown(text)} does not exist: names have at most {_LONGEST_NAME} letters")


def parse_phase(text: str) -> int:
    """Returns the id (0 to 6) of the phase that a text means.

    Case, spaces, hyphens and underscores do not matter, nor whether words are run together. An id, the start
    of the name or of its words, its initials, and any unambiguous part of it will do. "calot" means the data
    set's "carlot", and Cholec80's "GallbladderRetraction" its "gallbladder-extraction".

    Raises:
        UsageError: The text fits no phase or several; the message names the nearest ones.

    Example:
        >>> parse_phase("Calot"), parse_phase("ClippingCutting"), parse_phase("6")
        (1, 2, 6)
    """
    _expect_short("phase", text)
    if number := re.fullmatch(r"\s*(?:(?:phase|p)(?:\s*|[-_]))?([0-9]+)\s*", text.lower()):
        phase = int(number[1])
        if phase < len(PHASES):
            return phase
        raise UsageError(f"phase {phase} does not exist: ids go from 0 to {len(PHASES) - 1}; {_all_phases()}")
    words = re.sub(r"\bcalots\b", "calot", " ".join(_words(re.sub(r"[/+,.]", " ", text))))
    found = _phases_meant(words)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(PHASES[phase] for phase in found)
        raise UsageError(f"phase {text!r} is ambiguous: {names}; write more of the name, or its id")
    near = [PHASES[phase] for phase in _nearest_phases(words)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"unknown phase {text!r}: {hint}{_all_phases()}")


def _phases_meant(words: str) -> list[int]:
    """The ids of the phases that words can mean in any spelling; the most exact way of meaning them wins."""
    best: dict[int, set[int]] = {}
    for names in _SPELLINGS:
        stage, found = _matches_at(words, names)
        best.setdefault(stage, set()).update(names.index(name) for name in found)
    stages = [stage for stage, found in best.items() if found]
    return sorted(best[min(stages)]) if stages else []


def _nearest_phases(words: str, count: int = 2) -> list[int]:
    """The ids of the phases that look like the words in any spelling, best first."""
    names = {name: phase for spelling in _SPELLINGS for phase, name in enumerate(spelling)}
    near = _nearest(words, list(names), len(names))
    return list(dict.fromkeys(names[name] for name in near))[:count]


def parse_triplet(text: str) -> Triplet:
    """Returns the triplet that a text means.

    "instrument,verb,target", also with slashes or spaces between, each part as forgiving as `parse_phase`;
    or an id, 0 to 99. Parts that fit several names are settled by which triplets exist.

    Raises:
        UsageError: No triplet fits, or several do. The message names the nearest valid ones and, where the
            instrument is known, all that exist for it.

    Example:
        >>> parse_triplet("Grasper / retract / gallbladder").id, parse_triplet("irrig,asp,fluid").id
        (17, 82)
    """
    _expect_short("triplet", text)
    if number := re.fullmatch(r"\s*([0-9]+)\s*", text):
        triplet = int(number[1])
        if triplet < len(TRIPLETS):
            return TRIPLETS[triplet]
        raise UsageError(f"triplet {triplet} does not exist: ids go from 0 to {len(TRIPLETS) - 1}")
    parts = _split_triplet(text)
    if len(parts) != 3 or not all(parts):
        raise UsageError(f"{text!r} is no triplet: {_what_is_wanted(parts)}")
    instruments, verbs, targets = (
        _matches(part, names) for part, names in zip(parts, (INSTRUMENTS, VERBS, TARGETS), strict=True)
    )
    found = [
        triplet
        for triplet in TRIPLETS
        if triplet.instrument in instruments and triplet.verb in verbs and triplet.target in targets
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"triplet {text!r} is ambiguous: {' or '.join(triplet.name for triplet in found[:6])}"
        )
    raise UsageError(_why_no_triplet(text, parts, instruments, verbs, targets))


def _words(text: str) -> list[str]:
    """Lower-case words without marks: "Calot's  Triangle", "CalotsTriangle" -> ["calots", "triangle"]."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    plain = (
        plain.lower().replace("&", " and ").replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", "")
    )
    return [word for word in re.split(r"[\s_\-]+", plain) if word]


def _matches(text: str, names: Sequence[str]) -> list[str]:
    """Names that a text can mean, see `_matches_at`."""
    return _matches_at(text, names)[1]


def _matches_at(text: str, names: Sequence[str]) -> tuple[int, list[str]]:
    """Names that a text can mean, and how inexactly it says so.

    0 it is the name, 1 its start, 2 the starts of its words, 3 some of its words run together, 4 a part of
    it, 5 its initials.
    """
    asked = _words(text)
    joined = " ".join(asked)
    if not joined:
        return 0, []
    together = "".join(asked)
    plain = {name: " ".join(_words(name)) for name in names}
    stages = (
        [name for name in names if plain[name] == joined],
        [name for name in names if plain[name].startswith(joined)],
        [name for name in names if _abbreviates(asked, plain[name].split())],
        [name for name in names if together in _run_together(plain[name].split())],
        [name for name in names if len(joined) > 2 and joined in plain[name]],
        [name for name in names if len(joined) > 1 and joined in _initials(plain[name])],
    )
    for stage, found in enumerate(stages):
        if found:
            return stage, found
    return len(stages), []


def _run_together(words: Sequence[str]) -> set[str]:
    """Two or more of the words without spaces, in their order: "clippingcutting", "clippingandcutting"."""
    counts = range(2, len(words) + 1)
    return {"".join(some) for count in counts for some in itertools.combinations(words, count)}


def _initials(words: str) -> set[str]:
    """First letters of several words: "cc" or "cac" with "and", "gd" or "gbd" with the gallbladder."""
    several = words.split()
    if len(several) < 2:
        return set()
    shorter = [word for word in several if word != "and"]
    heads = ["gb" if word == "gallbladder" else word[0] for word in shorter]
    return {"".join(word[0] for word in several), "".join(word[0] for word in shorter), "".join(heads)}


def _abbreviates(asked: Sequence[str], words: Sequence[str]) -> bool:
    """Whether the asked words start words of the name, in its order: "clip cut" in "clipping and cutting"."""
    remaining = iter(words)
    return all(any(word.startswith(part) for word in remaining) for part in asked)


def _split_triplet(text: str) -> list[str]:
    if re.search(r"[,/;]", text):
        return [" ".join(_words(part)) for part in re.split(r"[,/;]", text)]
    words = _words(text)
    verb_end = 3 if words[1:3] == ["null", "verb"] else 2
    return [
        part
        for part in (" ".join(words[:1]), " ".join(words[1:verb_end]), " ".join(words[verb_end:]))
        if part
    ]


def _nearest(text: str, names: Sequence[str], count: int = 2) -> list[str]:
    """Names that look like the text, or of which a word does, best first."""
    plain = {name: " ".join(_words(name)) for name in names}

    def likeness(name: str) -> float:
        forms = (plain[name], *plain[name].split())
        return max(difflib.SequenceMatcher(None, text, form).ratio() for form in forms)

    ranked = sorted(names, key=likeness, reverse=True)
    return [name for name in ranked if likeness(name) >= 0.7][:count]


def _all_phases() -> str:
    return "phases are " + ", ".join(f"{i} {name}" for i, name in enumerate(PHASES))


def _what_is_wanted(parts: Sequence[str]) -> str:
    wanted = "write instrument,verb,target (grasper,retract,gallbladder) or an id, 0 to 99"
    instruments = _matches(parts[0], INSTRUMENTS) if parts else []
    return f"{wanted}; {_what_exists(instruments[0])}" if len(instruments) == 1 else wanted


def _what_exists(instrument: str) -> str:
    """All of an instrument's triplets in one line: "hook has cut (blood_vessel, peritoneum), ..."."""
    targets: dict[str, list[str]] = {}
    for triplet in triplets_of(instrument):
        targets.setdefault(triplet.verb, []).append(triplet.target)
    return f"{instrument} has " + ", ".join(f"{verb} ({', '.join(of)})" for verb, of in targets.items())


def _why_no_triplet(
    text: str, parts: Sequence[str], instruments: list[str], verbs: list[str], targets: list[str]
) -> str:
    vocabularies = (INSTRUMENTS, VERBS, TARGETS)
    found = (instruments, verbs, targets)
    near = [
        names or _nearest(part, vocabulary, 1)
        for part, names, vocabulary in zip(parts, found, vocabularies, strict=True)
    ]
    unknown = [
        f"no {kind} {part!r}"
        for kind, part, names in zip(("instrument", "verb", "target"), parts, found, strict=True)
        if not names
    ]
    reason = " and ".join(unknown) if unknown else "CholecT50 has no such triplet"

    def likeness(triplet: Triplet) -> tuple[int, int, float]:
        fits = [part in names for part, names in zip(triplet.name.split(","), near, strict=True)]
        alike = difflib.SequenceMatcher(None, ",".join(parts), triplet.name.replace("_", " ")).ratio()
        return sum(fits), fits[0], alike

    best = sorted(TRIPLETS, key=likeness, reverse=True)[:3]
    known = near[0][0] if len(near[0]) == 1 else None
    exists = _what_exists(known) if known else f"instruments are {', '.join(INSTRUMENTS)}"
    nearest = " or ".join(triplet.name for triplet in best)
    return f"unknown triplet {text!r}: {reason}; nearest: {nearest}; {exists}"
