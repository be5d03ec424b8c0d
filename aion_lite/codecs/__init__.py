"""Codecs: each modality to tokens and back."""

from aion_lite.codecs.base import Codec, TokenSpec
from aion_lite.codecs.manager import CodecManager
from aion_lite.codecs.scalar import CategoryCodec, ScalarCodec

__all__ = ["CategoryCodec", "Codec", "CodecManager", "ScalarCodec", "TokenSpec"]
