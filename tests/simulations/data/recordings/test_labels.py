import tomllib

from simulations.data.recordings.labels import Labels
from simulations.data.recordings.options import Options


def test_what_makes_nearly_the_same_labels_one_may_be_copied_into_the_file() -> None:
    labels = Labels(Options())
    for label in ('runner\'s "1"', "Runner's 1"):
        labels.code("ann.csv", label)
    (note,) = labels.notes()
    line = note.partition("; ")[2].removesuffix(" makes them one")
    assert tomllib.loads(line) == {"data": {"options": {"rename": {"Runner's 1": 'runner\'s "1"'}}}}
