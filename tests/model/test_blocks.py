"""A block computes what AION's and 4M's block computes; positions are theirs too."""

import pytest
import torch
from aion.fourm import fm_utils
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_lite.model.blocks import Attention, Block, DecoderBlock
from aion_lite.model.positions import sincos_positions

DIM, HEADS = 24, 3
AION = {
    "qk_norm": True, "gated_mlp": True, "qkv_bias": False, "proj_bias": False, "mlp_bias": False,
    "act_layer": torch.nn.SiLU, "norm_layer": lambda dim: fm_utils.LayerNorm(dim, bias=False),
}  # fmt: skip


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Random everywhere, norms included: weights of one would hide an exchange of two norms."""
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.3)
    return module.double()


def attention_tensors(theirs: torch.nn.Module, get) -> dict[str, torch.Tensor]:
    if hasattr(theirs, "qkv"):
        q, kv = get(theirs.qkv.weight).split([DIM, 2 * DIM])
    else:
        q, kv = get(theirs.q.weight), get(theirs.kv.weight)
    rest = {f"{name}.weight": get(getattr(theirs, name).weight) for name in ("proj", "q_norm", "k_norm")}
    return {"q.weight": q, "kv.weight": kv, **rest}


def tensors(theirs: torch.nn.Module, get=lambda p: p) -> dict[str, torch.Tensor]:
    """Their parameters (or, by ``get``, the gradients of these) under our names."""
    names = {"attn": "attention", "self_attn": "self_attention", "cross_attn": "cross_attention"}
    out = {}
    for their_name, our_name in names.items():
        if hasattr(theirs, their_name):
            part = attention_tensors(getattr(theirs, their_name), get)
            out |= {f"{our_name}.{k}": v for k, v in part.items()}
    for their_name, our_name in {"fc1": "gate", "fc2": "down", "fc3": "up"}.items():
        out[f"mlp.{our_name}.weight"] = get(getattr(theirs.mlp, their_name).weight)
    for name in ("norm1", "norm2", "query_norm", "context_norm"):
        if hasattr(theirs, name):
            out[f"{name}.weight"] = get(getattr(theirs, name).weight)
    return out


def pair(our_class: type, their_class: type) -> tuple[torch.nn.Module, torch.nn.Module]:
    theirs, ours = randomise(their_class(DIM, HEADS, **AION)), our_class(DIM, HEADS).double()
    ours.load_state_dict(tensors(theirs))
    return ours, theirs


def assert_same_gradients(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    expected = tensors(theirs, lambda p: p.grad)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-12, atol=1e-11, msg=name)


def inputs(*shape: int) -> list[torch.Tensor]:
    """The same numbers twice, each to collect gradients of its own."""
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [x.clone().requires_grad_(), x.clone().requires_grad_()]


def visible(*shape: int) -> torch.Tensor:
    """A random mask, True = may be seen, with something to see in every row."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[..., 0] = True
    return mask


def assert_same(x: torch.Tensor, y: torch.Tensor) -> None:
    torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_block_is_aions_block(masked):
    ours, theirs = pair(Block, fm_utils.Block)
    x, y = inputs(2, 5, DIM)
    mask = visible(2, 5, 5) if masked else None
    out = ours(x, mask[:, None] if masked else None)
    expected = theirs(y, ~mask if masked else None)
    assert_same(out, expected)
    out.square().mean().backward()
    expected.square().mean().backward()
    assert_same(x.grad, y.grad)
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("masked", [False, True])
def test_decoder_block_is_aions_decoder_block(masked):
    ours, theirs = pair(DecoderBlock, fm_utils.DecoderBlock)
    (x, y), (context, their_context) = inputs(2, 4, DIM), inputs(2, 6, DIM)
    mask, context_mask = (visible(2, 4, 4), visible(2, 4, 6)) if masked else (None, None)
    out = ours(x, context, mask[:, None], context_mask[:, None]) if masked else ours(x, context)
    expected = theirs(y, their_context, ~mask, ~context_mask) if masked else theirs(y, their_context)
    assert_same(out, expected)
    out.square().mean().backward()
    expected.square().mean().backward()
    assert_same(x.grad, y.grad)
    assert_same(context.grad, their_context.grad)
    assert_same_gradients(ours, theirs)


@given(seed=st.integers(0, 10_000), num_tokens=st.integers(1, 6))
@settings(max_examples=10, deadline=None)
def test_block_does_not_know_the_order_of_its_tokens(seed, num_tokens):
    generator = torch.Generator().manual_seed(seed)
    block = randomise(Block(DIM, HEADS))
    x = torch.randn(1, num_tokens, DIM, dtype=torch.float64, generator=generator)
    order = torch.randperm(num_tokens, generator=generator)
    with torch.no_grad():
        assert_same(block(x)[:, order], block(x[:, order]))


def test_a_hidden_token_has_no_influence():
    ours, _ = pair(Block, fm_utils.Block)
    x, other = inputs(1, 4, DIM)
    mask = torch.tensor([True, True, True, False])[None, None, None]
    with torch.no_grad():
        other[:, 3] += 5.0
        assert torch.equal(ours(x, mask)[:, :3], ours(other, mask)[:, :3])


def test_dropout_acts_in_training_only():
    block, (x, _) = Block(DIM, HEADS, dropout=0.5).double(), inputs(1, 3, DIM)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_width_that_the_heads_can_not_share_is_refused():
    with pytest.raises(ValueError, match="multiple of nhead, got 10 and 4"):
        Attention(10, 4)


@pytest.mark.parametrize("dim", [8, 24])
def test_positions_are_4ms(dim):
    line = fm_utils.build_1d_sincos_posemb(7, dim)[0]
    plane = fm_utils.build_2d_sincos_posemb(5, 3, dim)[0]  # theirs calls the slow axis w and takes it second
    torch.testing.assert_close(sincos_positions((7,), dim), line)
    torch.testing.assert_close(sincos_positions((3, 5), dim), plane)


def test_a_lone_token_has_no_position_and_no_width_is_refused():
    assert torch.equal(sincos_positions((1,), 8), torch.zeros(1, 8))
    assert sincos_positions((2, 3), 10).shape == (6, 10)
    assert sincos_positions((2, 3), 3).shape == (6, 3)
