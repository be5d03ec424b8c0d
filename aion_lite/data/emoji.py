"""3,963 emoji by their English names: the shortest of texts, each with one clear meaning.

May import the declarations, the data set and ``fetch``; knows nothing of codecs and models.
"""

from __future__ import annotations

import json
import zipfile

import numpy as np

from aion_lite.data.dataset import MultimodalDataset
from aion_lite.data.fetch import fetch
from aion_lite.modalities import Text

FULLY_QUALIFIED = 2  # the form that is recommended; the others are the same signs written otherwise
SKIN_TONES = dict.fromkeys(range(0x1F3FB, 0x1F400))  # for str.translate: remove them


def load_emoji_names(folder: str | None = None) -> MultimodalDataset:
    """The names of all emoji, as ``Text("name")``: "red heart", "waving hand dark skin tone", "Japan".

    ``info["emoji"]``: the sign itself. A sign in several skin tones is one object, so they never part in
    ``split``: 3,963 names of 1,935 signs. All names differ. There are no groups in the source.

    Args:
        folder: where the wheel of the package emoji lies already; default: fetched from the registry.

    Source: the package emoji 2.16.0, after Unicode's emoji-test.txt and CLDR. Python's own ``unicodedata``
    names single characters only: no flags, families and professions, and others in every Python.
    """
    with zipfile.ZipFile(fetch("emoji", folder)) as wheel:
        entries = json.loads(wheel.read("emoji/unicode_codes/emoji.json"))
    signs = [sign for sign, entry in entries.items() if entry["status"] == FULLY_QUALIFIED]
    names = [entries[sign]["en"].strip(":").replace("_", " ") for sign in signs]
    without_tone = np.array([sign.translate(SKIN_TONES).replace("\ufe0f", "") for sign in signs])
    ids = np.unique(without_tone, return_inverse=True)[1]
    return MultimodalDataset([Text("name", max_length=32)], {"name": names}, ids=ids, info={"emoji": signs})
