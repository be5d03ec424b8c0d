"""Emoji names against Python's own table of characters, which names the single ones too."""

import unicodedata

import pytest

from aion_lite.data import fetch
from aion_lite.data.emoji import load_emoji_names


@pytest.fixture(scope="module")
def emoji():
    try:
        fetch("emoji")
    except RuntimeError as error:
        pytest.skip(f"the wheel of emoji is not to be had: {error}")
    return load_emoji_names()


def test_thousands_of_names_all_different(emoji):
    names = emoji.values["name"].tolist()
    assert len(names) == len(set(names)) == len(set(emoji.info["emoji"])) == 3963
    assert emoji.present["name"].all() and max(map(len, names)) == 76
    assert not any(set(name) & set("_:") or name != name.strip() for name in names)
    name_of = dict(zip(emoji.info["emoji"], names, strict=True))
    assert (name_of["❤️"], name_of["🇯🇵"], name_of["🪗"]) == ("red heart", "Japan", "accordion")
    assert name_of["👋🏿"] == "waving hand dark skin tone"


def test_names_agree_with_pythons_where_it_has_one(emoji):
    """Unicode's two names of a sign often differ in words (CLDR: "red heart", UCD: "heavy black heart")."""
    pairs = zip(emoji.info["emoji"], emoji.values["name"], strict=True)
    single = [(unicodedata.name(sign, "").lower(), name.lower()) for sign, name in pairs if len(sign) == 1]
    known = [(a, b) for a, b in single if a]
    assert len(known) > 1100
    assert sum(bool(set(a.split()) & set(b.split())) for a, b in known) / len(known) > 0.8


def test_skin_tones_of_a_sign_never_part(emoji):
    sign = dict(zip(emoji.values["name"], emoji.ids, strict=True))
    assert len(set(emoji.ids)) == 1935
    assert sign["waving hand"] == sign["waving hand dark skin tone"] != sign["vulcan salute"]
    assert sign["kiss man man"] == sign["kiss man man light skin tone medium skin tone"]
    train, test = emoji.split(0.2)
    assert not set(train.ids) & set(test.ids)


def test_a_folder_of_yours_is_checked(emoji, tmp_path):
    assert len(load_emoji_names(fetch("emoji").parent)) == 3963
    with pytest.raises(FileNotFoundError, match=r"emoji needs the file emoji-2\.16\.0-py3-none-any\.whl"):
        load_emoji_names(tmp_path)
