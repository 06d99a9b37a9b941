"""KuaiRec (Gao et al., CIKM 2022) from its original log, `big_matrix.csv`, as DreamRec and ADIGRec use it.

    user_id  video_id  play_duration  video_duration  time                     date      timestamp      watch_ratio
    0        3649      13838          10867           2020-07-05 00:08:23.438  20200705  1593878903.44  1.2734

Neither paper says how it made sessions. The rules below are those of the released files: a view of at least twice the
video's length counts, and a pause of more than three hours ends a session. On the events of the released test part they
give its 9,209 sessions, each one. Then, as DreamRec says, items with fewer than five events and sessions of fewer than
three are left out, and the sessions are divided 8:1:1 in the order in which they begin.

The released files number the videos anew; this reader keeps KuaiRec's own ids.
"""

from __future__ import annotations

from pathlib import Path

from guiderec.data.dataset import Dataset
from guiderec.data.filters import KCore, MinimumRating
from guiderec.data.interactions import Interactions
from guiderec.data.protocols import SessionSplit

POSITIVE = MinimumRating(at_least=2.0)
"""A view counts when the video was watched twice."""
ITEMS = KCore(users=1, items=5)
"""Items need five events."""
SESSIONS = SessionSplit(gap_seconds=3 * 3600, shortest_session=3)
"""Sessions end at a pause of three hours, and need three events."""


def read(path: str | Path) -> Interactions:
    """The log in `big_matrix.csv`, all views, with `watch_ratio` as the rating.

    The times are those of `timestamp`: `time` is the same in China's zone and does not say so. Raises DataError for a
    file without these columns.
    """
    return Interactions.read(
        path, user="user_id", item="video_id", time="timestamp", rating="watch_ratio", name="kuairec"
    )


def load(path: str | Path) -> Dataset:
    """The session split of `big_matrix.csv`. Raises DataError for another format, or for too few sessions."""
    return SESSIONS(ITEMS(POSITIVE(read(path))), name="kuairec/time-split")
