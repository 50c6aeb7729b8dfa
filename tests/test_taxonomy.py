"""Names of CholecT50, read forgivingly and refused helpfully; all answers are written by hand."""

import pytest

from hierasurg_core.errors import UsageError
from hierasurg_core.taxonomy import (
    INSTRUMENTS,
    PHASES,
    TARGETS,
    TRIPLETS,
    VERBS,
    Triplet,
    parse_phase,
    parse_triplet,
    triplets_of,
)


def test_vocabulary_has_the_sizes_of_the_data_set() -> None:
    assert (len(PHASES), len(INSTRUMENTS), len(VERBS), len(TARGETS), len(TRIPLETS)) == (7, 6, 10, 15, 100)
    assert len({triplet.name for triplet in TRIPLETS}) == 100
    assert [triplet.id for triplet in TRIPLETS] == list(range(100))


@pytest.mark.parametrize(
    ("triplet_id", "name", "ids"),
    [
        (0, "grasper,dissect,cystic_plate", (0, 2, 1)),
        (3, "grasper,grasp,cystic_artery", (0, 0, 3)),
        (13, "grasper,pack,gallbladder", (0, 8, 0)),
        (17, "grasper,retract,gallbladder", (0, 1, 0)),
        (22, "bipolar,coagulate,abdominal_wall_cavity", (1, 3, 7)),
        (40, "bipolar,grasp,specimen_bag", (1, 0, 13)),
        (46, "hook,coagulate,blood_vessel", (2, 3, 5)),
        (60, "hook,dissect,gallbladder", (2, 2, 0)),
        (66, "scissors,cut,adhesion", (3, 5, 9)),
        (79, "clipper,clip,cystic_duct", (4, 4, 2)),
        (82, "irrigator,aspirate,fluid", (5, 6, 6)),
        (93, "irrigator,retract,omentum", (5, 1, 10)),
        (94, "grasper,null_verb,null_target", (0, 9, 14)),
        (99, "irrigator,null_verb,null_target", (5, 9, 14)),
    ],
)
def test_triplet_ids(triplet_id: int, name: str, ids: tuple[int, int, int]) -> None:
    triplet = TRIPLETS[triplet_id]
    assert triplet.name == name
    assert (triplet.instrument_id, triplet.verb_id, triplet.target_id) == ids
    assert parse_triplet(name) == triplet
    assert parse_triplet(str(triplet_id)) == triplet


def test_triplets_of_an_instrument() -> None:
    assert [triplet.id for triplet in triplets_of("clipper")] == [77, 78, 79, 80, 81, 98]
    assert triplets_of("scalpel") == ()


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("calot", 1),
        ("Calot", 1),
        ("CALOT TRIANGLE", 1),
        ("Calot's triangle", 1),
        ("Calot\N{RIGHT SINGLE QUOTATION MARK}s triangle dissection", 1),
        ("carlot-triangle-dissection", 1),
        ("calot_triangle_dissection", 1),
        ("triangle", 1),
        (" 1 ", 1),
        ("phase 1", 1),
        ("P1", 1),
        ("0", 0),
        ("prep", 0),
        ("clipping & cutting", 2),
        ("clip cut", 2),
        ("cutting", 2),
        ("gallbladder diss", 3),
        ("Gallbladder  Dissection", 3),
        ("packaging", 4),
        ("cleaning", 5),
        ("coagulation", 5),
        ("extraction", 6),
        ("6", 6),
        ("Preparation", 0),
        ("CalotTriangleDissection", 1),
        ("ClippingCutting", 2),
        ("GallbladderDissection", 3),
        ("GallbladderPackaging", 4),
        ("CleaningCoagulation", 5),
        ("GallbladderRetraction", 6),
        ("gallbladderretraction", 6),
        ("GALLBLADDER_RETRACTION", 6),
        ("cleaningcoagulation", 5),
        ("CLIPPINGANDCUTTING", 2),
        ("calotdissection", 1),
        ("clip/cut", 2),
        ("CTD", 1),
        ("gb dissection", 3),
        ("gall bladder packaging", 4),
        ("GBD", 3),
        ("packing", 4),
        ("hemostasis", 5),
        ("retraction", 6),
        ("removal", 6),
        ("phase_6", 6),
        ("P-2", 2),
    ],
)
def test_phase_is_read_forgivingly(text: str, phase: int) -> None:
    assert parse_phase(text) == phase


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7", ["phase 7 does not exist", "0 to 6", "6 gallbladder-extraction"]),
        ("-1", ["unknown phase '-1'"]),
        ("", ["unknown phase ''", "0 preparation"]),
        ("clippng", ["unknown phase 'clippng'", "did you mean clipping-and-cutting"]),
        ("calott", ["did you mean carlot-triangle-dissection"]),
        ("suturing", ["unknown phase 'suturing': phases are 0 preparation"]),
        ("dissection", ["ambiguous", "carlot-triangle-dissection, gallbladder-dissection;"]),
        ("gallbladder", ["gallbladder-dissection, gallbladder-packaging, gallbladder-extraction;"]),
        ("two\nlines", ["'two\\nlines'"]),
        ("phase -1", ["unknown phase 'phase -1'"]),
        ("cc", ["ambiguous: clipping-and-cutting, cleaning-and-coagulation;"]),
        ("retracton", ["did you mean gallbladder-extraction"]),
        ("9" * 200, ["phase 999", "999 does not exist: ids go from 0 to 6"]),
        ("9" * 5000, ["phase '999", "9 ... (5,000 characters) does not exist: names have at most 200"]),
        ("x" * 5000, ["phase 'xxx", "x ... (5,000 characters) does not exist: names have at most 200"]),
    ],
)
def test_wrong_phase_says_what_would_do(text: str, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_phase(text)
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "triplet_id"),
    [
        ("Grasper, Retract, Gallbladder", 17),
        ("grasper/retract/gallbladder", 17),
        ("grasper retract gallbladder", 17),
        ("grasper-retract-gallbladder", 17),
        ("grasper,retract,gall", 17),
        ("clipper,clip,cystic duct", 79),
        ("clipper clip cystic artery", 78),
        ("clipper clip artery", 78),
        ("hook dissect blood-vessel", 56),
        ("hook null verb null target", 96),
        ("irrig,asp,fl", 82),
        ("Hook,Dissect,CysticDuct", 58),
        ("grasper,grasp,specimenbag", 12),
        ("scissor,cut,liver", 71),
        ("grasper,grasp,bag", 12),
        ("099", 99),
    ],
)
def test_triplet_is_read_forgivingly(text: str, triplet_id: int) -> None:
    assert parse_triplet(text).id == triplet_id


def test_ambiguous_part_is_settled_by_what_exists() -> None:
    assert parse_triplet("bipolar,grasp,c") == Triplet(38, "bipolar", "grasp", "cystic_plate")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "grasper,cut,liver",
            [
                "unknown triplet 'grasper,cut,liver': CholecT50 has no such triplet",
                "nearest: grasper,retract,liver or grasper,grasp,liver or scissors,cut,liver",
                "grasper has dissect (cystic_plate, gallbladder, omentum)",
                "pack (gallbladder)",
            ],
        ),
        ("hok,dissect,gallbladder", ["no instrument 'hok'", "nearest: hook,dissect,gallbladder", "hook has"]),
        (
            "hook,disect,gallblader",
            ["no verb 'disect' and no target 'gallblader'", "nearest: hook,dissect,gallbladder"],
        ),
        (
            "scalpel,cut,liver",
            ["no instrument 'scalpel'", "scissors,cut,liver", "instruments are grasper, bip"],
        ),
        ("grasper,grasp,cystic", ["ambiguous", "grasper,grasp,cystic_artery or grasper,grasp,cystic_duct"]),
        ("hook", ["'hook' is no triplet", "instrument,verb,target", "hook has coagulate (blood_vessel"]),
        ("hook,,liver", ["is no triplet", "hook has"]),
        ("a,b,c,d", ["is no triplet"]),
        ("", ["'' is no triplet"]),
        ("100", ["triplet 100 does not exist", "0 to 99"]),
        ("-1", ["'-1' is no triplet"]),
    ],
)
def test_wrong_triplet_says_what_would_do(text: str, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_triplet(text)
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
