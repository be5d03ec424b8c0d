"""Questions to a trained transformer: predict, score, embed, generate. Without gradients, in eval mode.

May import predictions and generation; of the model it uses ``flatten``, ``encode``, ``decode`` and the head.
Letters as in ``transformer.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aion_lite.data.tokens import TokenDataset
from aion_lite.model.generate import generate, known_places
from aion_lite.model.prediction import Prediction

Tokens = TokenDataset | Mapping[str, Tensor]


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


class Questions:
    """The part of MultimodalTransformer that is asked once it is trained."""

    @inference
    def predict(self, inputs: Tokens, target: str, batch_size: int = 4096) -> Prediction:
        """The distribution of ``target`` given whatever ``inputs`` hold; its own tokens are not looked at.

        ``target``: a modality, or the part of one, such as ``labs.glucose``: then the other columns of the
        table do count as inputs. Tokens of a target with several are predicted each on its own: for joint
        samples use ``generate``, and for log-scores of many tokens ``log_prob``, which is faster.
        """
        if target in self.specs and self.specs[target].parts:
            parts = list(self.specs[target].codebooks(target))
            raise ValueError(f"{target!r} has codebooks of several kinds: predict one of {parts}.")
        asked_T, spec = self._places(target), self.codebooks[target]
        logp = []
        for batch in self._batches(inputs, batch_size):
            place_BO, h_BOD = self._ask(batch, asked_T)
            logp.append(self.head(h_BOD, self.book_T[place_BO], spec.vocab_size))
        return Prediction(target, torch.cat(logp), spec.values, spec.cells)

    @inference
    def log_prob(self, data: Tokens, target: str, batch_size: int = 4096) -> Tensor:
        """Log-probability (B, num_tokens) in nats of the true tokens of ``target``, each given the rest of
        ``data``; NaN where a token was not measured."""
        asked_T = self._places(target)
        logp = []
        for batch in self._batches(data, batch_size):
            code_BT, present_BT = self.flatten(batch.tokens, batch.present)
            place_BO, h_BOD = self._ask(batch, asked_T)
            nll_BO = self.head.losses(h_BOD, self.book_T[place_BO], code_BT[:, asked_T], 0.0)[1]
            logp.append((-nll_BO).masked_fill(~present_BT[:, asked_T], torch.nan))
        return torch.cat(logp)

    @inference
    def embed(self, inputs: Tokens, pool: str | None = "mean", batch_size: int = 4096):
        """What the encoder makes of the inputs: (B, D) averaged over what was measured.

        ``pool=None`` gives (B, 1 + T, D), register first and zeros where nothing was measured, and the mask
        (B, 1 + T) of what was measured.
        """
        parts = [self._embed(batch, pool) for batch in self._batches(inputs, batch_size)]
        joined = [torch.cat(part) for part in zip(*parts, strict=True)]
        return tuple(joined) if pool is None else joined[0]

    @inference
    def generate(self, inputs: Tokens, target: str | Sequence[str], **kwargs) -> TokenDataset:
        """Joint samples of the tokens of one or several modalities; see ``aion_lite.model.generate``."""
        targets = [target] if isinstance(target, str) else list(target)
        for name in targets:
            self._spec(name)
        return generate(self, self._checked(inputs), targets, **kwargs)

    def _encode_all(
        self, batch: TokenDataset, hidden_T: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Everything measured enters, except the places of ``hidden_T``; no mask where nothing is missing."""
        code_BI, place_BI, is_input_BI = self._measured(batch, hidden_T)
        return self.encode(code_BI, place_BI, None if is_input_BI.all() else is_input_BI)

    def _measured(self, batch: TokenDataset, hidden_T: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What ``encode`` takes, of no more places than the fullest sample needs."""
        code_BT, present_BT = self.flatten(batch.tokens, batch.present)
        present_BT = present_BT if hidden_T is None else present_BT & ~hidden_T
        place_BI = known_places(present_BT)
        return code_BT.gather(1, place_BI), place_BI, present_BT.gather(1, place_BI)

    def _embed(self, batch: TokenDataset, pool: str | None) -> tuple[Tensor, ...]:
        code_BI, place_BI, is_input_BI = self._measured(batch)
        context, seen = self.encode(code_BI, place_BI, is_input_BI)
        seen = seen[:, 0, 0]
        if pool is not None:
            return (torch.einsum("bi,bid->bd", seen.float() / seen.sum(1, keepdim=True), context),)
        every = context.new_zeros(len(batch), 1 + len(self.modality_T), context.shape[-1])
        at_BI = F.pad(place_BI + 1, (1, 0))  # the register is at 0
        every.scatter_(1, at_BI[..., None].expand_as(context), context.masked_fill(~seen[..., None], 0.0))
        return every, seen.new_zeros(every.shape[:2]).scatter_(1, at_BI, seen)

    def _ask(self, batch: TokenDataset, asked_T: Tensor) -> tuple[Tensor, Tensor]:
        """Places (B, O) asked and what the decoder makes of them (B, O, D), given all the rest."""
        place_BO = asked_T.nonzero()[:, 0].expand(len(batch), -1)
        context = self._encode_all(batch, asked_T)
        return place_BO, self.decode(place_BO, torch.ones_like(place_BO, dtype=torch.bool), *context)

    def _checked(self, inputs: Tokens) -> TokenDataset:
        """Inputs checked against this model's modalities, on its device."""
        inputs = inputs if isinstance(inputs, TokenDataset) else TokenDataset(inputs)
        inputs = inputs.to(self.modality_T.device)
        self.check(inputs)
        return inputs

    def _batches(self, inputs: Tokens, batch_size: int) -> Iterator[TokenDataset]:
        if batch_size < 1:
            raise ValueError(f"batch_size is a number of samples, 1 or more, got {batch_size}.")
        inputs = self._checked(inputs)
        return (inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size))

    def _places(self, target: str) -> Tensor:
        """Which places (T,) a modality, or the part of one, takes."""
        if target in self.codebooks:
            return self.book_T == list(self.codebooks).index(target)
        self._spec(target)
        return self.modality_T == self.names.index(target)
