"""The training loop: what it computes against a loop by hand, what it promises, that a model learns."""

import math
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import Broken, Line, run, samples, tokens, transformer, weights

from aion_lite.codecs import CodecManager, ScalarCodec
from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Scalar
from aion_lite.model import MultimodalTransformer
from aion_lite.passes import batch_rows
from aion_lite.training import evaluate_loss, train

# The arithmetic


def test_it_is_the_loop_one_would_write_by_hand():
    """Torch's AdamW and clipping, on the same batches, at rates written out."""
    module, by_hand, data = Line(), Line(), samples()
    kwargs = {"lr": 0.1, "warmup": 0.25, "optimizer": "adamw", "weight_decay": 0.1, "clip": 0.5}
    history = run(module, data, steps=12, log_every=1, **kwargs)

    groups = [{"params": [by_hand.linear.weight], "weight_decay": 0.1}, {"params": [by_hand.linear.bias]}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    rates = [1 / 3, 2 / 3, 1, *(0.5 * (1 + np.cos(np.pi * np.arange(9) / 9)))]
    for step, rate in enumerate(rates):
        loss, metrics = by_hand.loss(data[batch_rows(20, 8, 0, step)])
        record = history.records[step]
        assert record["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert record["largest"] == pytest.approx(float(metrics["largest"]), rel=1e-5)
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * rate
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(module), weights(by_hand), rtol=1e-5, atol=1e-6)
    assert history.best_step == 12 and history.best_validation == math.inf


def test_rows_may_be_chosen():
    """Those of the first half alone are as if there were no other half."""
    data, half, whole = samples(20), Line(), Line()
    run(half, data[:10], steps=7, lr=0.1)
    run(whole, data, steps=7, lr=0.1, rows=lambda step: batch_rows(10, 8, 0, step))
    assert torch.equal(weights(whole), weights(half))


def test_frozen_parameters_stay():
    model = transformer()
    frozen = [*model.encoder.parameters(), model.register_token]
    before = [p.requires_grad_(False).clone() for p in frozen]
    other = model.decoder[0].mlp.up.weight.clone()
    run(model, tokens(), steps=3)
    assert all(torch.equal(p, q) for p, q in zip(frozen, before, strict=True))
    assert not torch.equal(model.decoder[0].mlp.up.weight, other)


def test_the_average_of_the_weights_is_its_closed_form():
    decay, steps, path = 0.8, 9, []
    run(
        Line(),
        samples(),
        steps=steps,
        lr=0.1,
        on_step=lambda step, module: path.append(weights(module).clone()),
    )
    last, averaged = Line(), Line()
    run(last, samples(), steps=steps, lr=0.1)
    run(averaged, samples(), steps=steps, lr=0.1, ema=decay)
    path = [*path[1:], weights(last)]  # after each step
    share = [decay ** (steps - 1)] + [(1 - decay) * decay ** (steps - t) for t in range(2, steps + 1)]
    assert sum(share) == pytest.approx(1)
    expected = sum(s * w for s, w in zip(share, path, strict=True))
    torch.testing.assert_close(weights(averaged), expected)


def test_how_long_in_epochs():
    module, calls = Line(), []
    run(module, samples(20), num_epochs=2, batch_size=8, on_step=lambda step, module: calls.append(step))
    assert calls == [0, 1, 2, 3, 4]
    assert len(run(Line(), samples(20), num_epochs=0.5, batch_size=3, log_every=1).records) == 4


def test_what_is_recorded():
    history = run(
        transformer(), tokens(), steps=25, log_every=10, validation=tokens(seed=1), validate_every=20
    )
    frame = history.to_frame()
    assert frame.index.tolist() == [10, 20, 25]
    assert {"loss", "nll/x", "nll/pair", "validation"} <= set(frame)
    assert frame["validation"].notna().tolist() == [False, True, True]
    assert history.best_validation == frame["validation"].min() and history.seconds > 0


# Randomness


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_same_seed_same_numbers_and_the_callers_random_state_is_left_alone(optimizer):
    def once(seed):
        model = transformer()
        history = run(model, tokens(), steps=6, log_every=1, optimizer=optimizer, seed=seed, ema=0.9)
        return model, history

    first, history = once(0)
    torch.manual_seed(123)
    numpy_state = np.random.get_state  # the global one, which nothing here may touch
    before = torch.get_rng_state(), random.getstate(), numpy_state()[1].copy()
    model = transformer()
    torch.set_rng_state(before[0])
    again = run(model, tokens(), steps=6, log_every=1, optimizer=optimizer, seed=0, ema=0.9)
    evaluate_loss(model, tokens())
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert (numpy_state()[1] == before[2]).all()
    assert torch.equal(weights(model), weights(first)) and again.records == history.records
    assert not torch.equal(weights(once(1)[0]), weights(first))


def test_the_callers_arithmetic_is_left_alone():
    """Denormals are flushed while training; hypothesis, for one, refuses to work with that left on."""

    def denormals() -> bool:
        return sys.float_info.min * 0.5 > 0

    inside = []
    run(Line(), samples(), steps=1, on_step=lambda step, module: inside.append(denormals()))
    assert inside == [False] and denormals()
    with pytest.raises(FloatingPointError):
        run(Broken(lambda loss: loss * math.nan), samples(), steps=9)
    assert denormals()
    try:
        torch.set_flush_denormal(True)
        evaluate_loss(Line(), samples())
        assert not denormals()
    finally:
        torch.set_flush_denormal(False)


def test_looking_at_the_validation_changes_nothing():
    plain, watched = transformer(), transformer()
    run(plain, tokens(), steps=10)
    path = []
    run(
        watched, tokens(), steps=10, validation=tokens(seed=1), validate_every=3,
        on_step=lambda step, module: path.append((weights(module).clone(), module.training)),
    )  # fmt: skip
    other = []
    run(transformer(), tokens(), steps=10, on_step=lambda step, module: other.append(weights(module).clone()))
    assert all(torch.equal(w, v) and training for (w, training), v in zip(path, other, strict=True))


def test_the_score_is_the_same_for_the_same_seed_and_leaves_the_mode_alone():
    model = transformer().train()
    assert evaluate_loss(model, tokens(), seed=3) == evaluate_loss(model, tokens(), seed=3)
    assert model.training
    line, data = Line(), samples(21)
    assert evaluate_loss(line, data, batch_size=4) == pytest.approx(
        float(line.loss(data)[0].detach()), rel=1e-5
    )


# Early stop


@pytest.mark.parametrize("ema", [None, 0.7])
def test_early_stop_keeps_the_best_weights(ema):
    # Eight samples and a rate that is much too high at first: it gets better, then worse, by itself.
    module, data, validation = Line(), samples(8), samples(50, seed=1)
    history = run(
        module, data, steps=300, lr=0.3, warmup=0.0, optimizer="adamw", ema=ema,
        validation=validation, validate_every=5, patience=3, log_every=5,
    )  # fmt: skip
    looks = {int(r["step"]): r["validation"] for r in history.records}
    assert evaluate_loss(module, validation, 8, 0) == history.best_validation == min(looks.values())
    assert looks[history.best_step] == history.best_validation
    assert max(looks) == history.best_step + 3 * 5 < 300
    assert not module.training


def test_without_patience_it_runs_to_the_end_and_keeps_the_best():
    module, validation = Line(), samples(50, seed=1)
    history = run(module, samples(8), steps=60, lr=0.3, warmup=0.0, validation=validation, validate_every=5)
    assert history.records[-1]["step"] == 60
    assert evaluate_loss(module, validation, 8, 0) == history.best_validation


# Devices and precision


def test_each_run_chooses_its_device():
    """Accelerate remembers the first device of a process: as if that had been another one."""
    from accelerate.state import PartialState

    PartialState()
    PartialState._shared_state["device"] = torch.device("meta")
    module = Line()
    run(module, samples(), steps=1)
    assert module.linear.weight.device.type == "cpu"


def test_bf16_mixed_precision_runs_on_the_cpu():
    models = {precision: transformer() for precision in ("no", "bf16")}
    start = evaluate_loss(models["no"], tokens())
    for precision, model in models.items():
        run(model, tokens(), steps=30, mixed_precision=precision)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert evaluate_loss(model, tokens()) < start
    assert not torch.equal(weights(models["no"]), weights(models["bf16"]))  # it was in use


def test_one_sample_is_enough():
    assert math.isfinite(run(transformer(), tokens(1), steps=3, batch_size=64).records[-1]["loss"])


# It learns, and the value embedding learns where the table does not: the package's central claim, in small


def linear_gaussian(num_samples: int, seed: int) -> MultimodalDataset:
    rng = np.random.default_rng(seed)
    x1, x2, noise = rng.normal(size=(3, num_samples))
    values = {"x1": x1, "x2": x2, "y": 0.8 * x1 - 0.6 * x2 + 0.3 * noise}
    return MultimodalDataset(
        [Scalar(n) for n in values], {n: v.astype(np.float32) for n, v in values.items()}
    )


def test_value_embedding_beats_the_table_and_the_constant_on_400_samples():
    fitted, tested = linear_gaussian(400, seed=0), linear_gaussian(1000, seed=1)
    codecs = CodecManager([ScalarCodec(m, codebook_size=256) for m in fitted.modalities.values()]).fit(fitted)
    train_tokens, test_tokens = codecs.encode(fitted), codecs.encode(tested)
    error = {}
    for embedding in ("value", "table"):
        torch.manual_seed(0)
        model = MultimodalTransformer(codecs, d_model=32, nhead=2, num_layers=2, embedding=embedding)
        train(model, train_tokens, steps=100, batch_size=128, progress=False, device="cpu")
        mean = model.predict(test_tokens.select(["x1", "x2"]), "y").mean
        error[embedding] = float((mean - tested.values["y"]).square().mean())
    constant = float((fitted.values["y"].mean() - tested.values["y"]).square().mean())
    assert error["value"] < 0.5 * constant
    assert error["value"] < 0.5 * error["table"]
