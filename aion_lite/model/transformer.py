"""MultimodalTransformer: a masked encoder-decoder over the tokens of all modalities (4M, Mizrahi et al. 2023;
AION-1, Parker et al. 2025).

- Some tokens enter the encoder, some others are asked of the decoder (``masking.py``); cost follows these
  budgets: only the tokens that enter are embedded, and only for the tokens asked are there logits.
- The loss is the cross-entropy per token, averaged within each modality and then over the modalities asked in
  this batch: what is absent counts in neither sum nor number.
- A register token is always in view, so a sample with nothing measured gets a prediction: the marginal law.

Shapes: B samples, T token places of all modalities in a row, I inputs, O tokens asked, D width, K codes,
G modalities.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from aion_lite.codecs.base import TokenSpec
from aion_lite.codecs.manager import CodecManager
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import saving
from aion_lite.model.blocks import Block, DecoderBlock
from aion_lite.model.codebook import CodeEmbedding, CodeHead
from aion_lite.model.generate import generate
from aion_lite.model.masking import sample_masks
from aion_lite.model.positions import sincos_positions
from aion_lite.model.prediction import Prediction

Named = Mapping[str, Tensor]  # by modality name
Tokens = TokenDataset | Named

SIZES = {
    "small": {"d_model": 128, "nhead": 4, "num_layers": 4},
    "medium": {"d_model": 256, "nhead": 8, "num_layers": 6},
    "full": {"d_model": 512, "nhead": 8, "num_layers": 12},
    "base": {"d_model": 768, "nhead": 12, "num_layers": 12},  # AION-Base's shape
}


def inference(method):
    """A method without gradients and without dropout, whatever mode the model is in."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return method(self, *args, **kwargs)
        finally:
            self.train(was_training)

    return wrapped


class MultimodalTransformer(nn.Module):
    """Predicts any tokens from any others.

    Args:
        modalities: a fitted CodecManager, or the TokenSpec of each modality by name.
        d_model, nhead, num_layers: width, heads, and number of blocks of encoder and decoder each.
        dropout: on every residual branch.
        num_inputs, num_targets: most tokens of a sample that enter the encoder, are asked of the decoder.
        min_inputs: fewest tokens that enter.
        embedding: "value" embeds codes by where they lie, "table" by a learnt row each, as AION does.
        smoothing: width of the soft targets of codes on a line, in standard deviations of the codes; 0: hard.
        weights: modality name -> weight in the loss (1 where not named).
        hold_out: modality name -> probability that it may not enter the encoder, for what will be asked most.
        num_frequencies: waves a coordinate in the value embedding; on the galaxies none did best.
        seed: of the first weights.
    """

    def __init__(
        self,
        modalities: CodecManager | Mapping[str, TokenSpec],
        d_model: int = 128,
        nhead: int = 4,
        num_layers: int = 4,
        dropout: float = 0.0,
        num_inputs: int = 256,
        num_targets: int = 128,
        min_inputs: int = 1,
        embedding: str = "value",
        smoothing: float = 0.05,
        weights: Mapping[str, float] | None = None,
        hold_out: Mapping[str, float] | None = None,
        num_frequencies: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if isinstance(modalities, CodecManager):
            modalities = {name: codec.token_spec() for name, codec in modalities.codecs.items()}
        self.specs = dict(modalities)
        if embedding not in ("value", "table"):
            raise ValueError(f"embedding must be 'value' or 'table', got {embedding!r}.")
        if not self.specs:
            raise ValueError("A model needs at least one modality, got none.")
        if num_layers < 1 or nhead < 1 or num_targets < 1 or min(num_inputs, min_inputs, smoothing) < 0:
            raise ValueError(
                f"A model needs num_layers, nhead and num_targets of 1 or more; num_inputs, min_inputs and "
                f"smoothing of 0 or more; got {num_layers}, {nhead}, {num_targets}; "
                f"{num_inputs}, {min_inputs}, {smoothing}."
            )
        self.config = {
            "d_model": d_model, "nhead": nhead, "num_layers": num_layers, "dropout": dropout,
            "num_inputs": num_inputs, "num_targets": num_targets, "min_inputs": min_inputs,
            "embedding": embedding, "smoothing": smoothing, "weights": dict(weights or {}),
            "hold_out": dict(hold_out or {}), "num_frequencies": num_frequencies,
        }  # fmt: skip
        self.names = list(self.specs)
        self.num_inputs, self.num_targets, self.min_inputs = num_inputs, num_targets, min_inputs
        self.smoothing = 0.0 if embedding == "table" else smoothing
        sizes = [spec.num_tokens for spec in self.specs.values()]
        modality_T = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        position_TD = torch.cat([sincos_positions(spec.grid, d_model) for spec in self.specs.values()])
        self.register_buffer("modality_T", modality_T, False)
        self.register_buffer("position_TD", position_TD, False)
        self.register_buffer("weight_G", self._by_name("weights", 1.0, torch.inf), False)
        self.register_buffer("hold_out_G", self._by_name("hold_out", 0.0, 1.0), False)

        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
            torch.manual_seed(seed)
            self.code = CodeEmbedding(self.specs, d_model, embedding, num_frequencies)
            self.modality = nn.Embedding(len(sizes), d_model)  # shared by encoder and decoder
            self.mask_token = nn.Parameter(torch.zeros(d_model))
            self.register_token = nn.Parameter(torch.zeros(d_model))
            self.encoder = nn.ModuleList(Block(d_model, nhead, dropout) for _ in range(num_layers))
            self.encoder_norm = nn.LayerNorm(d_model, bias=False)
            self.to_context = nn.Linear(d_model, d_model)
            self.decoder = nn.ModuleList(DecoderBlock(d_model, nhead, dropout) for _ in range(num_layers))
            self.head = CodeHead(self.specs, d_model, embedding)
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            for parameter in (self.modality.weight, self.mask_token, self.register_token):
                nn.init.normal_(parameter, std=0.02)

    @classmethod
    def of_size(
        cls, size: str, modalities: CodecManager | Mapping[str, TokenSpec], **kwargs
    ) -> MultimodalTransformer:
        """A named size (width/heads/blocks): small 128/4/4, medium 256/8/6, full 512/8/12, base 768/12/12."""
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}.")
        return cls(modalities, **{**SIZES[size], **kwargs})

    def loss(
        self, tokens: Named, present: Named | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask at random, predict what was masked.

        Returns the loss to train on (soft targets where codes lie on a line) and, by modality, ``nll/NAME``:
        the true cross-entropy on hard codes in nats per token, NaN for a modality that was not asked.
        """
        code_BT, present_BT = self.flatten(tokens, present)
        input_BI, is_input_BI, target_BO, is_target_BO = sample_masks(
            present_BT, self.modality_T, len(self.names), self.num_inputs, self.num_targets,
            generator, self.min_inputs, hold_out_G=self.hold_out_G,
        )  # fmt: skip
        context = self.encode(code_BT.gather(1, input_BI), input_BI, is_input_BI)
        logp_BOK = self.decode(target_BO, is_target_BO, *context)
        code_BO, modality_BO = code_BT.gather(1, target_BO), self.modality_T[target_BO]
        hard_BO = -logp_BOK.gather(-1, code_BO[..., None])[..., 0]
        soft_BO = hard_BO
        if self.smoothing > 0:
            target_BOK = self.head.spread_targets(code_BO, modality_BO, self.smoothing)
            soft_BO = -(target_BOK * logp_BOK.masked_fill(target_BOK == 0, 0.0)).sum(-1)
        soft_G, hard_G, count_G = (
            torch.zeros_like(self.weight_G).index_add_(0, modality_BO.flatten(), (x * is_target_BO).flatten())
            for x in (soft_BO, hard_BO.detach(), torch.ones_like(hard_BO))
        )
        weight_G = self.weight_G * (count_G > 0)
        loss = (soft_G / count_G.clamp_min(1) * weight_G).sum() / weight_G.sum().clamp_min(1e-9)
        return loss, {f"nll/{name}": nll for name, nll in zip(self.names, hard_G / count_G, strict=True)}

    def forward(self, tokens: Named, present: Named | None = None):
        """The same as ``loss``."""
        return self.loss(tokens, present)

    @inference
    def predict(self, inputs: Tokens, target: str, batch_size: int = 4096) -> Prediction:
        """The distribution of ``target`` given whatever ``inputs`` hold; its own tokens are not looked at.

        Tokens of a target with several are predicted each on its own: for joint samples use ``generate``.
        """
        spec = self._spec(target)
        inputs = self._without(inputs, [target])
        place_O = (self.modality_T == self.names.index(target)).nonzero()[:, 0]
        logp = []
        for start in range(0, len(inputs), batch_size):
            batch = inputs[start : start + batch_size]
            context = self._encode_all(batch)
            place_BO = place_O.expand(len(batch), -1)
            logp.append(self.decode(place_BO, torch.ones_like(place_BO, dtype=torch.bool), *context))
        return Prediction(target, torch.cat(logp)[..., : spec.vocab_size], spec.values, spec.cells)

    @inference
    def embed(self, inputs: Tokens, pool: str | None = "mean", batch_size: int = 4096):
        """What the encoder makes of the inputs: (B, D) averaged over what was measured.

        ``pool=None`` gives (B, 1 + T, D), register first, and the mask (B, 1 + T) of what was measured.
        """
        inputs = self._without(inputs, [])
        parts = [self._encode_all(inputs[i : i + batch_size]) for i in range(0, len(inputs), batch_size)]
        context, seen = (torch.cat(part) for part in zip(*parts, strict=True))
        seen = seen[:, 0, 0]
        if pool is None:
            return context, seen
        weight = seen.float() / seen.sum(1, keepdim=True)
        return torch.einsum("bt,btd->bd", weight, context)

    @inference
    def generate(self, inputs: Tokens, target: str | Sequence[str], **kwargs) -> TokenDataset:
        """Joint samples of the tokens of one or several modalities; see ``aion_lite.model.generate``."""
        targets = [target] if isinstance(target, str) else list(target)
        return generate(self, self._without(inputs, targets), targets, **kwargs)

    def flatten(self, tokens: Named, present: Named | None = None) -> tuple[Tensor, Tensor]:
        """Tokens by name -> codes (B, T) and what is measured (B, T), every place of every modality in a row.

        The codes of absent tokens become 0, whatever stood there.
        """
        present = present or {}
        B = len(next(iter(tokens.values())))
        for name, code in tokens.items():
            if code.shape[1:] != (self._spec(name).num_tokens,):
                raise self._of_another_codec(name)
        codes, masks = [], []
        for name, spec in self.specs.items():
            code = tokens.get(name)
            if code is None:
                code = self.modality_T.new_zeros(B, spec.num_tokens)
                mask = torch.zeros_like(code, dtype=torch.bool)
            else:
                mask = present.get(name, torch.ones_like(code, dtype=torch.bool))
                mask = mask[:, None].expand_as(code) if mask.ndim == 1 else mask
            codes.append(code.masked_fill(~mask, 0))
            masks.append(mask)
        return torch.cat(codes, 1), torch.cat(masks, 1)

    def encode(self, code_BI: Tensor, place_BI: Tensor, is_input_BI: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen tokens -> context (B, 1 + I, D) and its mask (B, 1, 1, 1 + I)."""
        modality_BI = self.modality_T[place_BI]
        where_BID = self.position_TD[place_BI] + self.modality(modality_BI)
        register_B1D = self.register_token.expand(len(code_BI), 1, -1)
        x_BID = torch.cat([register_B1D, self.code(code_BI, modality_BI) + where_BID], 1)
        mask = torch.cat([is_input_BI.new_ones(len(is_input_BI), 1), is_input_BI], 1)[:, None, None, :]
        for block in self.encoder:
            x_BID = block(x_BID, mask)
        where_BID = torch.cat([register_B1D, where_BID], 1)
        return self.to_context(self.encoder_norm(x_BID)) + where_BID, mask

    def decode(self, place_BO: Tensor, is_target_BO: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Log-probabilities (B, O, K) of the tokens at the places asked, over their own modality's codes."""
        modality_BO = self.modality_T[place_BO]
        x_BOD = self.mask_token + self.position_TD[place_BO] + self.modality(modality_BO)
        # Queries see their own modality only; each sees itself, so that no row is empty.
        mask = (modality_BO[:, :, None] == modality_BO[:, None, :]) & is_target_BO[:, None, :]
        mask = (mask | torch.eye(place_BO.shape[1], dtype=torch.bool, device=mask.device))[:, None]
        for block in self.decoder:
            x_BOD = block(x_BOD, context, mask, context_mask)
        return self.head(x_BOD, modality_BO)

    def check(self, inputs: TokenDataset) -> None:
        """Raise ValueError where tokens are not of this model's codecs; ``train`` calls it once."""
        if len(inputs) == 0:
            raise ValueError("There is no sample: at least one is needed.")
        code_BT, _ = self.flatten(inputs.tokens, inputs.present)
        wrong_T = ((code_BT < 0) | (code_BT >= self.head.size[self.modality_T])).any(0)
        if wrong_T.any():
            raise self._of_another_codec(self.names[int(self.modality_T[wrong_T][0])])

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The matrices inside the blocks: what Muon is for (``training.py``)."""
        return [p for blocks in (self.encoder, self.decoder) for p in blocks.parameters() if p.ndim == 2]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        saving.save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MultimodalTransformer:
        """Read what ``save_pretrained`` wrote; an error where it is damaged or of another model."""
        return saving.load(cls, folder)

    def _encode_all(self, batch: TokenDataset) -> tuple[Tensor, Tensor]:
        code_BT, present_BT = self.flatten(batch.tokens, batch.present)
        place_BT = torch.arange(code_BT.shape[1], device=code_BT.device).expand_as(code_BT)
        return self.encode(code_BT, place_BT, present_BT)

    def _without(self, inputs: Tokens, targets: Sequence[str]) -> TokenDataset:
        """Inputs checked against this model's modalities, on its device, less the targets."""
        inputs = inputs if isinstance(inputs, TokenDataset) else TokenDataset(inputs)
        inputs = inputs.to(self.modality_T.device)
        self.check(inputs)
        for name in targets:
            self._spec(name)
        kept = [name for name in inputs.tokens if name not in targets]
        if kept:
            return inputs.select(kept)
        absent = torch.zeros(len(inputs), dtype=torch.bool)  # only targets were given: predict from nothing
        return TokenDataset(inputs.tokens, {n: absent for n in inputs.tokens})

    def _spec(self, name: str) -> TokenSpec:
        if name not in self.specs:
            raise ValueError(f"This model knows no modality {name!r}; it was built for {self.names}.")
        return self.specs[name]

    def _of_another_codec(self, name: str) -> ValueError:
        spec = self._spec(name)
        return ValueError(
            f"Tokens of {name!r} must be (B, {spec.num_tokens}) in 0..{spec.vocab_size - 1}: these were made "
            f"by another codec than the one this model was built for."
        )

    def _by_name(self, setting: str, default: float, most: float) -> Tensor:
        given = self.config[setting]
        for name, value in given.items():
            self._spec(name)
            if not 0 <= value <= most:
                raise ValueError(f"{setting}[{name!r}] must lie between 0 and {most}, got {value}.")
        return torch.tensor([float(given.get(name, default)) for name in self.names])
