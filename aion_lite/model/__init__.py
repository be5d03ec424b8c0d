"""The masked multimodal transformer."""

from aion_lite.model.masking import sample_masks
from aion_lite.model.prediction import Prediction
from aion_lite.model.transformer import SIZES, MultimodalTransformer

__all__ = ["SIZES", "MultimodalTransformer", "Prediction", "sample_masks"]
