"""Learn how two modalities relate from samples that have one or the other, never both (or only a few).

- ``BackTranslation``: the model translates each sample, the translation is drawn as tokens and kept fixed,
  and the model learns to find the original from it (Lample et al. 2018). What is learnt has real data on the
  side that is asked. Where every round learns all there is to learn (``back_translate``), a round makes one
  marginal right and keeps the odds ratios, which is iterative proportional fitting: it ends at the joint law
  with the right marginals that is nearest to where it began. So it must begin somewhere that means something
  (``matching.py``), or be given a few pairs.
- ``CycleConsistency``: there and back with a gradient through the tokens between (``straight_through.py``),
  and the translations' marginal held to the real one. A cycle alone is content with any permutation.

Both are modules for ``training.train``, on a TokenDataset that holds both sides: row i of one has nothing to
do with row i of the other, and they are shuffled anew at every step so that nothing can be made of it. No
step waits for the host.

Letters as in ``transformer.py``; A and C are the places of the first and the second side.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aion_lite.arguments import real_number, whole_number
from aion_lite.data.tokens import TokenDataset
from aion_lite.model.transformer import MultimodalTransformer
from aion_lite.strategies.straight_through import TokenDrawer
from aion_lite.training import History, train

Named = Mapping[str, Tensor]


class Unpaired(nn.Module, ABC):
    """What both ways share: two sides of a model, and the pairs there are.

    Args:
        model: is trained in place; ask it once training is over.
        first, second: names of the modalities of each side.
        pairs: true pairs (every modality of both sides), learnt in both directions at every step; or None.
        pair_weight: of their loss.
        pair_batch: how many of them a step sees, drawn with replacement.
        num_asked: most tokens of a side that a sample is asked for in one step.
        first_weight: of the loss of finding the first side, next to 1 of the second.

    Raises ValueError on unknown or repeated names, empty sides, numbers out of range, or pairs that lack a
    modality; TypeError where the model is none, or a number.
    """

    def __init__(
        self,
        model: MultimodalTransformer,
        first: Sequence[str],
        second: Sequence[str],
        pairs: TokenDataset | None = None,
        pair_weight: float = 1.0,
        pair_batch: int = 64,
        num_asked: int = 16,
        first_weight: float = 1.0,
    ):
        super().__init__()
        _check_model("model", model)
        for side in (first, second):
            is_list = isinstance(side, Collection) and not isinstance(side, str)
            if not is_list or not side or any(n not in model.names for n in side):
                raise ValueError(
                    f"first and second are lists of {model.names}, got {first!r} and {second!r}."
                )
        names = [*first, *second]
        if len(set(names)) < len(names):
            raise ValueError(f"A modality is on one side only, once; got {list(first)} and {list(second)}.")
        if pairs is not None and not isinstance(pairs, TokenDataset):
            raise TypeError(f"pairs is a TokenDataset or None, got a {type(pairs).__name__}.")
        self.num_asked = whole_number("num_asked", num_asked, 1)
        self.pair_batch = whole_number("pair_batch", pair_batch, 1)
        self.pair_weight = real_number("pair_weight", pair_weight, 0)
        self.first_weight = real_number("first_weight", first_weight, 0)
        self.model, self.drawer = model, TokenDrawer(model)
        self.sides = (tuple(first), tuple(second))
        for key, side in zip("AC", self.sides, strict=True):
            of_side = torch.tensor([model.names.index(n) for n in side])
            places = torch.isin(model.modality_T.cpu(), of_side).nonzero()[:, 0]
            self.register_buffer(f"places_{key}", places.to(model.modality_T.device), False)
        pair_code = None
        if pairs is not None and len(pairs):
            pairs = pairs.to(model.modality_T.device)
            Unpaired.check(self, pairs)
            pair_code = model.flatten(pairs.tokens, pairs.present)[0]
        self.register_buffer("pair_code", pair_code, False)  # (P, T)

    def check(self, data: TokenDataset) -> None:
        """Raise ValueError unless every sample has all tokens of both sides; ``train`` calls it once."""
        self.model.check(data)
        for name in (*self.sides[0], *self.sides[1]):
            if name not in data.tokens or not bool(data.present[name].all()):
                raise ValueError(
                    f"Both sides need all their tokens, and {name!r} lacks some: leave out the samples that "
                    f"lack it, side by side; the sides' rows need not belong together."
                )

    def loss(self, tokens: Named, present: Named | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a batch whose two sides have nothing to do with each other."""
        code_BT, _ = self.model.flatten(tokens, present)
        code_BA, code_BC = code_BT[:, self.places_A], code_BT[:, self.places_C]
        code_BC = code_BC[torch.randperm(len(code_BC), device=code_BC.device)]
        loss, metrics = self.unpaired(code_BA, code_BC)
        if self.pair_code is not None:
            rows = torch.randint(len(self.pair_code), (self.pair_batch,), device=code_BT.device)
            pair_PT = self.pair_code[rows]
            pair_PA, pair_PC = pair_PT[:, self.places_A], pair_PT[:, self.places_C]
            forth = self.asked(self.seen(pair_PA, self.places_A), pair_PC, self.places_C)
            back = self.asked(self.seen(pair_PC, self.places_C), pair_PA, self.places_A)
            loss = loss + self.pair_weight * (forth + self.first_weight * back)
            metrics["pairs"] = forth.detach()
        return loss, metrics

    @abstractmethod
    def unpaired(self, code_BA: Tensor, code_BC: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of codes of the two sides, of samples that have nothing to do with each other."""

    def seen(self, code_BI: Tensor, place_I: Tensor) -> tuple[Tensor, Tensor]:
        """Context of tokens that are all measured."""
        place_BI = place_I.expand(len(code_BI), -1)
        return self.model.encode(code_BI, place_BI, None)

    def asked(self, context: tuple[Tensor, Tensor], code_BO: Tensor, place_O: Tensor) -> Tensor:
        """Mean loss of the codes of some places, drawn anew, given a context."""
        place_BO = place_O.expand(len(code_BO), -1)
        if self.num_asked < len(place_O):
            some_BN = torch.rand(place_BO.shape, device=place_BO.device).topk(self.num_asked).indices
            place_BO, code_BO = place_BO.gather(1, some_BN), code_BO.gather(1, some_BN)
        h_BOD = self.model.decode(place_BO, torch.ones_like(place_BO, dtype=torch.bool), *context)
        model = self.model
        losses = model.head.losses(h_BOD, model.book_T[place_BO], code_BO, model.smoothing, model.regression)
        return losses[0].mean()

    def log_prob_each(
        self, code_BA: Tensor, code_MC: Tensor, model: MultimodalTransformer | None = None
    ) -> Tensor:
        """(B, M) log-probability of each of M second sides given each of B first ones; tokens independent."""
        model = self.model if model is None else model
        place_BA, place_BC = (p.expand(len(code_BA), -1) for p in (self.places_A, self.places_C))
        context = model.encode(code_BA, place_BA, None)
        book_BC = model.book_T[place_BC]
        h_BCD = model.decode(place_BC, torch.ones_like(place_BC, dtype=torch.bool), *context)
        logp_BCK = model.head.flat(model.head.norm(h_BCD), book_BC)
        B, C, M = len(place_BC), place_BC.shape[1], len(code_MC)
        return logp_BCK.gather(2, code_MC.T.expand(B, C, M)).sum(1)

    def hidden_matrices(self) -> list[nn.Parameter]:
        return self.model.hidden_matrices()

    def compiled(self):
        """The model's context (``train(compile=True)``); each number of tokens in view is compiled anew."""
        return self.model.compiled()

    def _needs_flat(self, what: str) -> None:
        grid = [n for n in self.sides[1] if self.model.specs[n].geometry in ("grid", "mixed")]
        if grid:
            raise ValueError(
                f"{what} goes through every code of the second side, and {grid} have too many: put numbers "
                f"or categories there and images first."
            )


class BackTranslation(Unpaired):
    """Each side learns to be found from a drawn translation of itself.

    Args:
        draw: how a first side is drawn for a second one. "generate": token after token from the model, in
            ``num_rounds`` rounds. "choose": among the first sides of the batch, by Bayes' rule with the
            model's law of the second side given each, P(i | c) ~ q(c | a_i): always real, and the step is
            then one of expectation maximisation for sum over c of log mean over i of q(c | a_i), the
            likelihood of the second sides under the mixture of all predictions (Dempster et al. 1977).
        num_rounds: rounds of drawing a side, of "generate"; the second side is drawn so in both cases.
        translator: the model that translates; by default the one that learns, as it is at that step.
        others: as ``Unpaired`` has them.
    """

    def __init__(
        self,
        *args,
        draw: str = "generate",
        num_rounds: int = 4,
        translator: MultimodalTransformer | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if draw not in ("generate", "choose"):
            raise ValueError(f"draw is 'generate' or 'choose', got {draw!r}.")
        if draw == "choose":
            self._needs_flat("draw='choose'")
        if translator is not None:
            _check_model("translator", translator)
        self.draw, self.num_rounds = draw, whole_number("num_rounds", num_rounds, 1)
        self._translator = [self.model if translator is None else translator]  # in a list: no part of this

    def check(self, data: TokenDataset) -> None:
        super().check(data)
        self._translator[0].to(self.model.modality_T.device)

    def unpaired(self, code_BA: Tensor, code_BC: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        was_training = self._translator[0].training
        self._translator[0].eval()  # a translation is no place for dropout
        with torch.no_grad():
            second_BC = self.translated(code_BA, self.places_A, self.places_C)
            if self.draw == "generate":
                first_BA = self.translated(code_BC, self.places_C, self.places_A)
            else:
                score = self.log_prob_each(code_BA, code_BC, self._translator[0])  # (a, c)
                noise = -torch.empty_like(score).exponential_().log()
                first_BA = code_BA[(score + noise).argmax(0)]
        self._translator[0].train(was_training)
        first = self.asked(self.seen(second_BC, self.places_C), code_BA, self.places_A)
        second = self.asked(self.seen(first_BA, self.places_A), code_BC, self.places_C)
        metrics = {"first": first.detach(), "second": second.detach()}
        return second + self.first_weight * first, metrics

    def translated(self, code_BI: Tensor, place_I: Tensor, place_O: Tensor) -> Tensor:
        """Tokens (B, O) of one side drawn given the other, some of them a round, in random order."""
        model, B, num_asked = self._translator[0], len(code_BI), len(place_O)
        rounds = min(self.num_rounds, num_asked)
        order_BO = torch.rand(B, num_asked, device=code_BI.device).argsort(1)
        place_BI, out_BO = place_I.expand(B, -1), torch.zeros(B, num_asked, dtype=torch.int64).to(code_BI)
        for i in range(rounds):
            start, stop = (num_asked * k // rounds for k in (i, i + 1))
            context = model.encode(code_BI, place_BI, None)
            now_BN = order_BO[:, start:stop]
            asked_BN = place_O[now_BN]
            h_BND = model.decode(asked_BN, torch.ones_like(asked_BN, dtype=torch.bool), *context)
            drawn_BN, _ = self.drawer(model, h_BND, asked_BN)
            out_BO = out_BO.scatter(1, now_BN, drawn_BN)
            code_BI, place_BI = torch.cat([code_BI, drawn_BN], 1), torch.cat([place_BI, asked_BN], 1)
        return out_BO


def back_translate(
    model: MultimodalTransformer,
    data: TokenDataset,
    first: Sequence[str],
    second: Sequence[str],
    *,
    rounds: int = 5,
    steps: int = 200,
    pairs: TokenDataset | None = None,
    settings: Mapping[str, Any] | None = None,
    **training,
) -> list[History]:
    """Iterative back-translation: in each round the model as it was at the round's start translates.

    Args:
        data, first, second, pairs: as ``BackTranslation`` has them; ``settings``: its other arguments.
        steps: of each round, enough to learn what the round has to teach.
        training: as ``training.train`` has it; ``seed`` is the first round's.
    """
    rounds, seed = whole_number("rounds", rounds, 1), whole_number("seed", training.pop("seed", 0))
    _check_model("model", model)  # before it is copied
    histories = []
    for i in range(rounds):
        module = BackTranslation(
            model, first, second, pairs, translator=copy.deepcopy(model), **(settings or {})
        )
        histories.append(train(module, data, steps=steps, seed=seed + i, **training))
    return histories


class CycleConsistency(Unpaired):
    """First -> second -> first and second -> first -> second, with a gradient through the tokens between.

    Args:
        temperature: of the straight-through draw, above 0.
        marginal_weight: of the second sides' negative log-likelihood under the mixture of all predictions,
            the term that asks for the right marginal; a cycle alone is content with any permutation.
        others: as ``Unpaired`` has them.

    Raises ValueError where codes have no place to put a gradient on (categories, text, embedding="table").
    """

    def __init__(self, *args, temperature: float = 1.0, marginal_weight: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        marginal_weight = real_number("marginal_weight", marginal_weight, 0)
        if not real_number("temperature", temperature) > 0:
            raise ValueError(f"temperature lies above 0, got {temperature}.")
        if not self.drawer.has_places:
            raise ValueError(
                "A cycle's gradient passes through where codes lie: use embedding='value' without categories "
                "and text, or BackTranslation."
            )
        if marginal_weight > 0:
            self._needs_flat("marginal_weight")
        self.temperature, self.marginal_weight = temperature, marginal_weight

    def unpaired(self, code_BA: Tensor, code_BC: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen_A, seen_C = self.seen(code_BA, self.places_A), self.seen(code_BC, self.places_C)
        first = self.asked(self.through(seen_A, self.places_C), code_BA, self.places_A)
        second = self.asked(self.through(seen_C, self.places_A), code_BC, self.places_C)
        loss = second + self.first_weight * first
        metrics = {"first": first.detach(), "second": second.detach()}
        if self.marginal_weight > 0:
            each = self.log_prob_each(code_BA, code_BC)  # (a, c)
            marginal = -(each.logsumexp(0) - math.log(len(each))).mean()
            loss = loss + self.marginal_weight * marginal
            metrics["marginal"] = marginal.detach()
        return loss, metrics

    def through(self, context: tuple[Tensor, Tensor], place_O: Tensor) -> tuple[Tensor, Tensor]:
        """Context of one side drawn given the other, which the gradient goes back through."""
        place_BO = place_O.expand(len(context[0]), -1)
        is_input_BO = torch.ones_like(place_BO, dtype=torch.bool)
        h_BOD = self.model.decode(place_BO, is_input_BO, *context)
        _, x_BOF = self.drawer(self.model, h_BOD, place_BO, self.temperature)
        book_BO = self.model.book_T[place_BO]
        x_BOD = self.model.code.value.at(x_BOF, self.model.code.member[book_BO])
        return self.model.encode_embedded(x_BOD, place_BO, is_input_BO)


def _check_model(name: str, model: Any) -> None:
    if not isinstance(model, MultimodalTransformer):
        raise TypeError(f"{name} is a MultimodalTransformer, got a {type(model).__name__}.")
