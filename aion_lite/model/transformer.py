"""MultimodalTransformer: a masked encoder-decoder over the tokens of all modalities (4M, Mizrahi et al. 2023;
AION-1, Parker et al. 2025).

- Some tokens enter the encoder, some others are asked of the decoder (``masking.py``); cost follows these
  budgets: only the tokens that enter are embedded, and only for the tokens asked are there logits.
- The loss is the cross-entropy per token, averaged within each modality and then over the modalities asked in
  this batch: what is absent counts in neither sum nor number.
- A register token is always in view, so a sample with nothing measured gets a prediction: the marginal law.

- A modality may have several codebooks (a table has one a column), called ``modality.part``.

Shapes: B samples, T token places of all modalities in a row, I inputs, O tokens asked, D width, K codes,
G modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aion_lite.codecs.base import TokenSpec
from aion_lite.codecs.manager import CodecManager
from aion_lite.data.tokens import TokenDataset
from aion_lite.model import saving
from aion_lite.model.blocks import Block, DecoderBlock, in_working_precision
from aion_lite.model.codebook import CodeEmbedding
from aion_lite.model.compiled import compiled
from aion_lite.model.head import CodeHead
from aion_lite.model.masking import sample_masks
from aion_lite.model.positions import sincos_positions
from aion_lite.model.questions import Questions

Named = Mapping[str, Tensor]  # by modality name

SIZES = {
    "small": {"d_model": 128, "nhead": 4, "num_layers": 4},
    "medium": {"d_model": 256, "nhead": 8, "num_layers": 6},
    "full": {"d_model": 512, "nhead": 8, "num_layers": 12},
    "base": {"d_model": 768, "nhead": 12, "num_layers": 12},  # AION-Base's shape
}


class MultimodalTransformer(nn.Module, Questions):
    """Predicts any tokens from any others.

    Args:
        modalities: a fitted CodecManager, or the TokenSpec of each modality by name.
        d_model, nhead, num_layers: width, heads, and number of blocks of encoder and decoder each.
        dropout: on every residual branch.
        num_inputs, num_targets: most tokens of a sample that enter the encoder, are asked of the decoder.
        min_inputs: fewest tokens that enter.
        embedding: "value" embeds codes by where they lie, "table" by a learnt row each, as AION does.
        smoothing: width of the soft targets of codes on a line, in standard deviations of the codes; 0: hard.
        regression: weight of the squared error of the predicted mean beside the cross-entropy, for codes on a
            line. Cross-entropy asks which code; this asks how far off, which is what R2 scores.
        weights: modality name -> weight in the loss (1 where not named).
        hold_out: modality name -> probability that it may not enter the encoder, for what will be asked most.
        num_frequencies: waves a coordinate in the value embedding; on the galaxies none did best.
        seed: of the first weights.

    ``model.gradient_checkpointing = True`` computes the blocks' inner values again in the backward pass
    instead of keeping them: less memory, a third more time.
    """

    gradient_checkpointing = False

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
        regression: float = 1.0,
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
        if (
            num_layers < 1
            or nhead < 1
            or num_targets < 1
            or not all(x >= 0 for x in (num_inputs, min_inputs, smoothing, regression))
        ):
            raise ValueError(
                f"A model needs num_layers, nhead and num_targets of 1 or more; num_inputs, min_inputs, "
                f"smoothing and regression of 0 or more; got {num_layers}, {nhead}, {num_targets}; "
                f"{num_inputs}, {min_inputs}, {smoothing}, {regression}."
            )
        self.config = {
            "d_model": d_model, "nhead": nhead, "num_layers": num_layers, "dropout": dropout,
            "num_inputs": num_inputs, "num_targets": num_targets, "min_inputs": min_inputs,
            "embedding": embedding, "smoothing": smoothing, "regression": regression,
            "weights": dict(weights or {}), "hold_out": dict(hold_out or {}),
            "num_frequencies": num_frequencies, "seed": seed,
        }  # fmt: skip
        self.names = list(self.specs)
        codebooks = [spec.codebooks(name) for name, spec in self.specs.items()]
        self.codebooks = {name: spec for books in codebooks for name, spec in books.items()}
        self.num_inputs, self.num_targets, self.min_inputs = num_inputs, num_targets, min_inputs
        self.smoothing, self.regression = (0.0, 0.0) if embedding == "table" else (smoothing, regression)
        sizes = [spec.num_tokens for spec in self.specs.values()]
        modality_T = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        position_TD = torch.cat([sincos_positions(spec.grid, d_model) for spec in self.specs.values()])
        sizes_of_books = torch.tensor([spec.num_tokens for spec in self.codebooks.values()])
        self.register_buffer("modality_T", modality_T, False)
        self.register_buffer(
            "book_T", torch.arange(len(sizes_of_books)).repeat_interleave(sizes_of_books), False
        )
        self.register_buffer("position_TD", position_TD, False)
        self.register_buffer("weight_G", self._by_name("weights", 1.0, torch.inf), False)
        self.register_buffer("hold_out_G", self._by_name("hold_out", 0.0, 1.0), False)

        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
            torch.manual_seed(seed)
            self.code = CodeEmbedding(self.codebooks, d_model, embedding, num_frequencies)
            self.modality = nn.Embedding(len(self.codebooks), d_model)  # shared by encoder and decoder
            self.mask_token = nn.Parameter(torch.zeros(d_model))
            self.register_token = nn.Parameter(torch.zeros(d_model))
            self.encoder = nn.ModuleList(Block(d_model, nhead, dropout) for _ in range(num_layers))
            self.encoder_norm = nn.LayerNorm(d_model, bias=False)
            self.to_context = nn.Linear(d_model, d_model)
            self.decoder = nn.ModuleList(DecoderBlock(d_model, nhead, dropout) for _ in range(num_layers))
            self.head = CodeHead(self.codebooks, d_model, embedding)
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
        input_BI, is_input_BI, target_BO, is_target_BO = self.sample_masks(present_BT, generator)
        if self._always_full(tokens, present):
            is_input_BI = None
        context = self.encode(code_BT.gather(1, input_BI), input_BI, is_input_BI)
        h_BOD = self.decode(target_BO, is_target_BO, *context)
        code_BO, modality_BO = code_BT.gather(1, target_BO), self.modality_T[target_BO]
        soft_BO, hard_BO = self.head.losses(
            h_BOD, self.book_T[target_BO], code_BO, self.smoothing, self.regression
        )
        # Sums by modality, as a product: adding by index would add in another order at every run on a GPU.
        asked_BOG = F.one_hot(modality_BO, len(self.names)) * is_target_BO[..., None]
        soft_G, hard_G = (
            torch.einsum("bo,bog->g", x, asked_BOG.to(x.dtype)) for x in (soft_BO, hard_BO.detach())
        )
        count_G = asked_BOG.sum((0, 1))
        weight_G = self.weight_G * (count_G > 0)
        loss = (soft_G / count_G.clamp_min(1) * weight_G).sum() / weight_G.sum().clamp_min(1e-9)
        return loss, {f"nll/{name}": nll for name, nll in zip(self.names, hard_G / count_G, strict=True)}

    def sample_masks(self, present_BT: Tensor, generator: torch.Generator | None = None):
        """What enters and what is asked, by this model's budgets: as ``masking.sample_masks`` returns it."""
        return sample_masks(
            present_BT, self.modality_T, len(self.names), self.num_inputs, self.num_targets,
            generator, self.min_inputs, hold_out_G=self.hold_out_G,
        )  # fmt: skip

    def forward(self, tokens: Named, present: Named | None = None):
        """The same as ``loss``."""
        return self.loss(tokens, present)

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
            codes.append(code.long().masked_fill(~mask, 0))  # int64, as indices are
            masks.append(mask)
        return torch.cat(codes, 1), torch.cat(masks, 1)

    def _always_full(self, tokens: Named, present: Named | None) -> bool:
        """Whether every sample fills its input budget for certain: attention without a mask is faster."""
        everything = not present and set(tokens) == set(self.names)
        budget = self.num_inputs if self.min_inputs >= self.num_inputs else len(self.modality_T)
        return everything and budget < len(self.modality_T) and not self.config["hold_out"]

    def encode(
        self, code_BI: Tensor, place_BI: Tensor, is_input_BI: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Chosen tokens -> context (B, 1 + I, D) and its mask (B, 1, 1, 1 + I); None: all of them count."""
        return self.encode_embedded(self.code(code_BI, self.book_T[place_BI]), place_BI, is_input_BI)

    def encode_embedded(
        self, x_BID: Tensor, place_BI: Tensor, is_input_BI: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The same of tokens that are embedded already."""
        where_BID = self.position_TD[place_BI] + self.modality(self.book_T[place_BI])
        register_B1D = self.register_token.expand(len(x_BID), 1, -1)
        x_BID = torch.cat([register_B1D, x_BID + where_BID], 1)
        x_BID = in_working_precision(x_BID)
        mask = None
        if is_input_BI is not None:
            mask = F.pad(is_input_BI, (1, 0), value=True)[:, None, None, :]
        for block in self.encoder:
            x_BID = self._run(block, x_BID, mask)
        where_BID = torch.cat([register_B1D, where_BID], 1)
        return in_working_precision(self.to_context(self.encoder_norm(x_BID)) + where_BID), mask

    def decode(
        self, place_BO: Tensor, is_target_BO: Tensor, context: Tensor, context_mask: Tensor | None
    ) -> Tensor:
        """What the head makes the law of the tokens asked from: (B, O, D)."""
        modality_BO = self.modality_T[place_BO]
        x_BOD = self.mask_token + self.position_TD[place_BO] + self.modality(self.book_T[place_BO])
        x_BOD = in_working_precision(x_BOD)
        # Queries see their own modality only; each sees itself, so that no row is empty.
        mask = (modality_BO[:, :, None] == modality_BO[:, None, :]) & is_target_BO[:, None, :]
        mask = (mask | torch.eye(place_BO.shape[1], dtype=torch.bool, device=mask.device))[:, None]
        for block in self.decoder:
            x_BOD = self._run(block, x_BOD, context, mask, context_mask)
        return x_BOD

    def _run(self, block: nn.Module, *args: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and self.training):
            return block(*args)
        # Without dropout there is no random state to restore.
        keeps_random_state = self.config["dropout"] > 0
        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=keeps_random_state)

    def check(self, inputs: TokenDataset) -> None:
        """Raise ValueError where tokens are not of this model's codecs; ``train`` calls it once."""
        if not isinstance(inputs, TokenDataset):
            kind = type(inputs).__name__
            raise TypeError(f"A transformer needs tokens by modality, got {kind}: encode them with codecs.")
        if len(inputs) == 0:
            raise ValueError("There is no sample: at least one is needed.")
        code_BT, _ = self.flatten(inputs.tokens, inputs.present)
        wrong_T = ((code_BT < 0) | (code_BT >= self.head.size[self.book_T])).any(0)
        if wrong_T.any():
            raise self._of_another_codec(self.names[int(self.modality_T[wrong_T][0])])

    def blocks(self) -> list[nn.Module]:
        return [*self.encoder, *self.decoder]

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The matrices inside the blocks: what Muon is for (``training.py``)."""
        return [p for block in self.blocks() for p in block.parameters() if p.ndim == 2]

    def compiled(self):
        """A context in which the costly parts run through torch.compile (``train(compile=True)``).

        Questions in it are faster, too, on a GPU and in batches of one size: each size is compiled anew.
        """
        return compiled(self)

    def __getstate__(self) -> dict:
        """A copy is compiled anew: what is compiled is bound to this model's own weights."""
        state = super().__getstate__()
        state.pop("_compiled", None)
        return state

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        saving.save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MultimodalTransformer:
        """Read what ``save_pretrained`` wrote; an error where it is damaged or of another model."""
        return saving.load(cls, folder)

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
            if not 0 <= value <= most or value == torch.inf:
                raise ValueError(f"{setting}[{name!r}] must lie between 0 and {most}, got {value}.")
        values = torch.tensor([float(given.get(name, default)) for name in self.names])
        if setting == "weights" and not values.any():
            raise ValueError("All weights are 0, so there is nothing to learn: give one modality a weight.")
        return values
