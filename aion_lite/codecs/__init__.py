"""Codecs: each modality to tokens and back."""

from aion_lite.codecs.backbones import load_backbone
from aion_lite.codecs.base import Codec, TokenSpec
from aion_lite.codecs.image import ImageCodec
from aion_lite.codecs.manager import CodecManager
from aion_lite.codecs.pretrained import PretrainedImageCodec, SimpleImageDecoder, choose_stage
from aion_lite.codecs.pretrained_series import PretrainedTimeSeriesCodec
from aion_lite.codecs.pretrained_text import PretrainedTextCodec
from aion_lite.codecs.scalar import CategoryCodec, ScalarCodec
from aion_lite.codecs.series import TimeSeriesCodec
from aion_lite.codecs.spectrum import SpectrumCodec
from aion_lite.codecs.table import TableCodec
from aion_lite.codecs.text import TextCodec
from aion_lite.codecs.train import evaluate_codec, rate_line, train_codec

__all__ = [
    "CategoryCodec",
    "Codec",
    "CodecManager",
    "ImageCodec",
    "PretrainedImageCodec",
    "PretrainedTextCodec",
    "PretrainedTimeSeriesCodec",
    "ScalarCodec",
    "SimpleImageDecoder",
    "SpectrumCodec",
    "TableCodec",
    "TextCodec",
    "TimeSeriesCodec",
    "TokenSpec",
    "choose_stage",
    "evaluate_codec",
    "load_backbone",
    "rate_line",
    "train_codec",
]
