"""Bring your own: windows from one ``.npz`` file."""

from simulations.data.arrays import MAX_BYTES, read_arrays
from simulations.data.base import DataError, DataSource, Recordings
from simulations.data.fields import Fields
from simulations.data.paths import configured

KEYS = (
    *("X", "y", "subject", "subjects", "classes", "channels", "hz", "scale", "stream", "start"),
    *("run", "pos", "magnitudes", "notes"),
)


class NpzSource(DataSource):
    """Windows that somebody else cut, in the file that ``data.path`` names.

    Keys; all arrays are plain (``allow_pickle=False``), other keys are ignored:

    ``X`` (windows, time, channels), a real or whole number
        float16 and float32 stay what they are, anything else becomes float32.
    ``y`` (windows,), whole
        Index into ``classes``; −1 where unknown.
    ``subject`` (windows,), whole
        Index into ``subjects``; without ``subjects`` each distinct number is a person.
    ``subjects``, ``classes``, ``channels``: strings, optional
        Names. Six channels without names or ``magnitudes`` are taken to be the three axes of an
        accelerometer, then those of a gyroscope.
    ``hz``, ``scale``: one positive number, optional
        Samples a second (1 where it is not known); ``X`` is divided by ``scale``, as float32.
    ``stream``, ``start`` (windows,), whole, optional
        The continuous recording that a window was cut from, and its first sample therein.
    ``run``, ``pos`` (windows,), whole, optional
        The same where windows are evenly spaced: ``start`` is ``pos`` times the step that
        ``data.overlap`` gives.
    ``magnitudes`` (groups, members), whole, optional
        Channels that are one vector in space; −1 fills up a shorter group.
    ``notes``: strings, optional
        What a reader of results must know.

    Where neither ``stream`` nor ``run`` is there, the windows of one person and class are taken to
    be one stream, in file order, each overlapping the next by ``data.overlap``. A file that is seen
    to overlap by more is refused, and so is one whose windows overlap where the class changes: say
    then where they were cut.
    """

    ignores = frozenset({"window_seconds", "source_days", "client_days", "held_out"})
    max_bytes = MAX_BYTES

    def load(self) -> Recordings:
        """Return all windows."""
        path = configured(self.config, self.folder)
        if path is None:
            raise DataError("data.path: missing; data.kind = 'npz' needs the path of an .npz file")
        file = Fields(path, read_arrays(path, KEYS, self.max_bytes))
        x = file.windows()
        person, persons = file.persons(len(x))
        file.check_finite(x, person, persons)
        y, classes = file.labels(len(x))
        stream, start = file.times(x, person, y, self.config.overlap)
        return Recordings(
            x=x,
            y=y,
            person=person,
            stream=stream,
            start=start,
            persons=persons,
            classes=classes,
            channels=file.channels(x.shape[2]),
            hz=file.number("hz"),
            magnitudes=file.magnitudes(x.shape[2]),
            notes=file.notes(persons),
        )
