"""``train_codec`` and ``evaluate_codec``: any codec trained on its modality's samples, and how good it is.

May import codecs, data sets, the training loop and the scores; knows nothing of transformers or strategies.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from aion_lite.codecs.base import Codec, TokenSpec, as_cells
from aion_lite.data.dataset import MultimodalDataset
from aion_lite.evaluation import codebook_use, psnr, ssim
from aion_lite.modalities import Category, Image, Modality, Spectrum, Table, Text, check_present
from aion_lite.training import History, train


def train_codec(
    codec: Codec,
    data: Any,
    *,
    steps: int | None = None,
    num_epochs: float | None = None,
    batch_size: int = 256,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    ema: float | None = None,
    seed: int = 0,
    validation: Any = None,
    validate_every: int = 100,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    device: str | None = None,
    mixed_precision: str = "no",
    progress: bool = True,
) -> History:
    """Train ``codec`` in place on what ``data`` has of its modality, and leave it in eval mode.

    Samples with nothing measured are left out. A codec with a scale takes it from ``data``. A codec with
    nothing to train by gradient is fitted instead: no other argument matters then, and the History is empty.

    Args:
        data: a MultimodalDataset that declares the codec's modality; values (B, *modality.shape); or a
            TensorDataset (values, present) or (values, present, weight). ``weight`` is the inverse variance
            of the values, of their shape; a MultimodalDataset's is ``info["NAME_ivar"]``, if it is there.
        validation: the same, held out: the weights that reconstruct it best are kept.
        steps, ...: as ``training.train`` has them.

    Raises ValueError where nothing was measured or another modality is declared, and what ``train`` raises.
    """
    x, present, weight = measured_samples(codec, data)
    if type(codec).fit is not Codec.fit:
        codec.fit(x, present)
        return History()
    codec.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if hasattr(codec, "fit_scale"):  # a resumed run's comes from the same data, and then from its checkpoint
        codec.fit_scale(x, present)
    # A codec with frozen parts runs them once, here, and not at every step.
    prepare = getattr(codec, "prepare", _tensors)
    return train(
        codec, prepare(x, present, weight), steps=steps, num_epochs=num_epochs, batch_size=batch_size, lr=lr,
        weight_decay=weight_decay, ema=ema, seed=seed,
        validation=None if validation is None else prepare(*measured_samples(codec, validation)),
        validate_every=validate_every, patience=patience, checkpoint=checkpoint,
        checkpoint_every=checkpoint_every, device=device, mixed_precision=mixed_precision, progress=progress,
    )  # fmt: skip


def evaluate_codec(
    codec: Codec, data: Any, batch_size: int = 512, data_range: float | None = None
) -> dict[str, float]:
    """Encode and decode held-out samples: what came back of what was measured, and what the tokens cost.

    Takes what ``train_codec`` takes. What is absent, or has a weight of 0, is not scored. Keys, where they
    have a meaning (``rate_line`` writes them in a line):

    - ``r2`` for numbers, 1 - squared error / squared distance from the mean of ``data``, in the unit. An
      image's or series' is the mean over its channels, a table's over its columns of numbers; a spectrum's
      sums both over all wavelengths first, each with its own mean. What never changes is left out.
    - ``psnr`` (dB) and ``ssim`` (from 11 x 11 pixels) for images, at ``data_range``: by default the data's.
    - ``accuracy``, share of the categories or strings given back exactly; a table's is the mean over columns.
    - ``tokens`` a sample, ``codes`` of the largest codebook, ``bits_nominal`` = sum of log2(codebook's size);
      ``used``, ``perplexity`` as ``codebook_use`` has them, and ``bits``, the entropy of a sample's present
      tokens by the frequencies of codes, as if tokens were independent. Where tokens have codebooks of their
      own, ``used`` and the log of ``perplexity`` are means over the tokens.
    """
    x, present, weight = measured_samples(codec, data)
    tokens, decoded = [], []
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        tokens.append(codec.encode(x[rows], present[rows]))
        decoded.append(codec.decode(tokens[-1]))
    codes = torch.cat(tokens)
    held = as_cells(codec.token_present(codes, present), codes).expand_as(codes)
    if isinstance(codec.modality, Text):
        back = [text for part in decoded for text in part]
        report = {"accuracy": sum(a == b for a, b in zip(x, back, strict=True)) / len(x)}
    else:
        measured = as_cells(present, x).expand_as(x)
        measured = measured if weight is None else measured & (weight > 0)
        report = _reconstruction(codec, x, torch.cat(decoded), measured, data_range)
    return {**report, **_rate(codec.token_spec(), codes, held)}


def rate_line(report: dict[str, float]) -> str:
    """What ``evaluate_codec`` reports, in one line: the rate, then the distortion."""
    plural = "s" if report["tokens"] > 1 else ""
    mixed = report["bits_nominal"] < 0.999 * report["tokens"] * math.log2(report["codes"])
    rate = (
        f"{report['tokens']:.0f} token{plural} of {'up to ' if mixed else ''}{report['codes']:,.0f} codes: "
        f"{report['bits_nominal']:,.0f} bits nominal, {report['bits']:,.0f} used "
        f"({100 * report['used']:.0f} % of codes, perplexity {report['perplexity']:,.0f})"
    )
    formats = {
        "r2": "R2 {:.3f}", "psnr": "PSNR {:.1f} dB", "ssim": "SSIM {:.2f}", "accuracy": "accuracy {:.3f}"
    }  # fmt: skip
    return f"{rate}; " + ", ".join(f.format(report[key]) for key, f in formats.items() if key in report)


def measured_samples(codec: Codec, data: Any) -> tuple[Any, Tensor, Tensor | None]:
    """(values, present, weight or None), checked, of the samples with something measured."""
    if not isinstance(getattr(codec, "modality", None), Modality):  # a codec, or what wraps one
        raise TypeError(f"A codec is needed, got {type(codec).__name__}.")
    modality, present, weight = codec.modality, None, None
    if isinstance(data, MultimodalDataset):
        declared = data.modalities.get(modality.name)
        if declared != modality:
            raise ValueError(f"The codec is for {modality!r}, the data set declares {declared!r}.")
        x, present = data.values[modality.name], data.present[modality.name]
        weight = data.info.get(f"{modality.name}_ivar")
    elif isinstance(data, TensorDataset):
        if len(data.tensors) > 3:
            raise ValueError(f"Give values, present and weight at most, got {len(data.tensors)} tensors.")
        x, present, weight = (*data.tensors, None, None)[:3]
    else:
        x = data
    x = modality.check(x, present)
    present = check_present(modality, present, len(x), getattr(x, "device", "cpu"))
    kept = present if present.ndim == 1 else present.flatten(1).any(1)
    if not kept.any():
        raise ValueError(f"{modality} was not measured in any of the {len(x)} samples.")
    if weight is not None:
        weight = torch.as_tensor(weight, dtype=torch.float32, device=present.device)
        if weight.shape != x.shape:
            shapes = f"{tuple(x.shape)}, got {tuple(weight.shape)}"
            raise ValueError(f"{modality} needs inverse variances of the values' shape {shapes}.")
        weight = torch.where(as_cells(present, x), weight, 0.0)
        bad = int((~(weight >= 0) | weight.isinf()).sum())
        if bad:
            raise ValueError(
                f"{modality} has {bad} inverse variances that are negative, NaN or infinite: set them to 0 "
                f"where a value is not to count."
            )
        if not weight.any():
            raise ValueError(f"{modality} has no inverse variance above 0, so nothing would count.")
        weight = weight[kept]
    return x[kept.numpy() if isinstance(modality, Text) else kept], present[kept], weight


def _tensors(x: Tensor, present: Tensor, weight: Tensor | None) -> TensorDataset:
    return TensorDataset(x, present) if weight is None else TensorDataset(x, present, weight)


def _reconstruction(
    codec: Codec, x: Tensor, back: Tensor, measured: Tensor, data_range: float | None
) -> dict[str, float]:
    """The scores of x (B, *shape) and what came back, where ``measured`` (the same shape)."""
    modality = codec.modality
    if isinstance(modality, Category):
        return {"accuracy": float((x == back).double().mean())}
    if isinstance(modality, Table):
        is_class = torch.tensor([isinstance(c, Category) for c in modality.columns], device=x.device)
        equal = ((x == back.round()) & measured).sum(0, dtype=torch.float64) / measured.sum(0)
        accuracy = equal[is_class & measured.any(0)]
        report = {"accuracy": float(accuracy.mean())} if len(accuracy) else {}
        numbers = [t[:, ~is_class] for t in (x, back, measured)]
        return {"r2": _r2(*numbers), **report} if not is_class.all() else report
    report = {"r2": _r2(x, back, measured, pooled=isinstance(modality, Spectrum))}
    if isinstance(modality, Image):
        seen = x[measured]
        data_range = float(seen.max() - seen.min()) if data_range is None else data_range
        if data_range > 0:
            report["psnr"] = psnr(x, back, data_range, measured)
            if min(x.shape[2:]) >= 11:
                report["ssim"] = ssim(x, back, data_range, measured)
    return report


def _r2(x: Tensor, back: Tensor, measured: Tensor, pooled: bool = False) -> float:
    """(B, C, ...) -> the mean of R2 over channels C; pooled, that of all channels weighted by variance."""
    x, back, measured = (
        (t if t.ndim > 1 else t[:, None]).transpose(0, 1).flatten(1) for t in (x, back, measured)
    )
    count = measured.sum(1, dtype=torch.float64)
    x = x.double()  # the square of a flux of 1e-23 has no float32
    mean = x.where(measured, 0.0).sum(1) / count.clamp_min(1)
    error = (x - back).where(measured, 0.0).square().sum(1)
    spread = (x - mean[:, None]).where(measured, 0.0).square().sum(1)
    if pooled:
        error, spread = error.sum(0, keepdim=True), spread.sum(0, keepdim=True)
    varies = spread > 0
    return float((1 - error[varies] / spread[varies]).mean())


def _rate(spec: TokenSpec, codes: Tensor, held: Tensor) -> dict[str, float]:
    """What codes (B, num_tokens) cost, where ``held`` (the same shape)."""
    parts = list(spec.parts.values()) or [spec]
    sizes = [part.num_tokens for part in parts]
    bits = used = mean_bits = 0.0
    for part, c, h in zip(parts, codes.split(sizes, 1), held.split(sizes, 1), strict=True):
        if h.any():
            use = codebook_use(c[h], part.vocab_size)
            bits += use["bits"] * float(h.sum()) / len(codes)
            mean_bits += use["bits"] * part.num_tokens / spec.num_tokens
            used += use["used"] * part.num_tokens / spec.num_tokens
    nominal = sum(part.num_tokens * math.log2(part.vocab_size) for part in parts)
    return {
        "tokens": spec.num_tokens, "codes": spec.vocab_size, "bits_nominal": nominal, "bits": bits,
        "used": used, "perplexity": 2**mean_bits,
    }  # fmt: skip
