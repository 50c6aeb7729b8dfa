import pytest

from hierasurg_core.errors import UsageError
from hierasurg_core.generation.timeline import parse_triplets


def test_one_triplet_is_one_id():
    assert parse_triplets("grasper,retract,gallbladder", 16) == 17
    assert parse_triplets("grasper;retract;gallbladder", 16) == 17


def test_spans_fill_their_seconds_and_leave_the_others_empty():
    assert parse_triplets("17@0-2; 60@4-", 6) == (17, 17, 17, -1, 60, 60)
    assert parse_triplets("grasper,retract,gallbladder@1;hook,dissect,gallbladder@3-3", 4) == (-1, 17, -1, 60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("17 + 60", "grasper,retract,gallbladder and .* at once are not possible: .* one triplet a second"),
        ("17@0-3; 60@3-5", "at once are not possible.*see second 3"),
        ("17@0-6", "the seconds 0-6 of '17@0-6' are not possible: the clip has seconds 0 to 5"),
        ("17@4-2", "not possible"),
        ("17@x", "is no triplet with seconds: write instrument,verb,target@FIRST-LAST"),
        ("17@0-2; 60", "'60' is no triplet with seconds"),
        ("grasper,clip,gut@0-2", "unknown triplet"),
    ],
)
def test_what_is_refused(text: str, message: str):
    with pytest.raises(UsageError, match=message):
        parse_triplets(text, 6)
