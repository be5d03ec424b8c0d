"""The codecs of four modalities, fitted."""

import pytest
from four_modalities import MODALITIES, dataset

from aion_lite.codecs import CodecManager


@pytest.fixture
def manager():
    return CodecManager(MODALITIES).fit(dataset())
