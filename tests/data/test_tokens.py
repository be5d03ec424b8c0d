"""TokenDataset: samples stay together, and bad tokens are refused at the door."""

import numpy as np
import pytest
import torch

from aion_lite.data.tokens import TokenDataset

IMAGE, AGE = torch.arange(12).reshape(4, 3), torch.tensor([[5], [6], [7], [8]])
SOME = torch.tensor([True, False, True, False])
CELLS = torch.arange(12).reshape(4, 3) % 2 == 0


@pytest.fixture
def tokens():
    return TokenDataset({"image": IMAGE, "age": AGE}, {"image": CELLS, "age": SOME})


def test_a_name_left_out_of_present_is_all_measured():
    assert TokenDataset({"age": AGE}).present["age"].tolist() == [True] * 4


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (SOME, [0, 2]),
        (torch.tensor([3, 0, 0]), [3, 0, 0]),
        ([2, 1], [2, 1]),
        (np.array([2, 1]), [2, 1]),
        (2, [2]),
        (-1, [3]),
    ],
)
def test_rows_of_all_modalities_stay_together(tokens, rows, expected):
    part = tokens[rows]
    assert len(part) == len(expected)
    assert torch.equal(part.tokens["image"], IMAGE[expected]) and torch.equal(
        part.tokens["age"], AGE[expected]
    )
    assert torch.equal(part.present["image"], CELLS[expected])
    assert torch.equal(part.present["age"], SOME[expected])


def test_a_loop_gives_every_sample_once(tokens):
    assert [int(one.tokens["age"]) for one in tokens] == [5, 6, 7, 8]


def test_fewer_modalities_of_the_same_samples(tokens):
    part = tokens.select(["age"])
    assert list(part.tokens) == list(part.present) == ["age"] and len(part) == 4


def test_arrays_are_taken_and_to_keeps_everything(tokens):
    again = TokenDataset({"age": AGE.numpy()}, {"age": SOME.numpy()}).to("cpu")
    assert torch.equal(again.tokens["age"], AGE) and torch.equal(again.present["age"], SOME)


@pytest.mark.parametrize(
    ("tokens", "present", "error", "says"),
    [
        ({}, None, ValueError, "tokens of one modality or more"),
        ({"age": AGE}, {"mass": SOME}, ValueError, r"\['mass'\], which present names"),
        ({"age": AGE, "image": IMAGE[:3]}, None, ValueError, "same samples.*'age': 4, 'image': 3"),
        (
            {"age": AGE.float()},
            None,
            TypeError,
            r"'age' must be integers \(B, num_tokens\), got torch\.float32",
        ),
        ({"age": AGE > 5}, None, TypeError, r"got torch\.bool"),
        ({"age": AGE[:, 0]}, None, TypeError, r"got torch\.int64 \(4,\)"),
        ({"age": torch.tensor(5)}, None, TypeError, r"got torch\.int64 \(\)"),
        ({"age": AGE}, {"age": SOME.int()}, ValueError, r"present\['age'\] must be bool"),
        ({"age": AGE}, {"age": CELLS}, ValueError, r"or \(B, num_tokens\), got torch\.bool \(4, 3\)"),
    ],
)
def test_bad_tokens_are_refused(tokens, present, error, says):
    with pytest.raises(error, match=says):
        TokenDataset(tokens, present)


def test_an_unknown_modality_is_named(tokens):
    with pytest.raises(ValueError, match=r"No tokens of \['mass'\]; there are \['image', 'age'\]"):
        tokens.select(["age", "mass"])
