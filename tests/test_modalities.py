"""Declarations: they survive JSON, and refuse in one sentence what they don't hold.

Run: pytest tests/test_modalities.py
"""

import json
import warnings

import numpy as np
import pytest
import torch

from aion_lite.modalities import (
    Category,
    Image,
    Scalar,
    Spectrum,
    Table,
    Text,
    TimeSeries,
    check_names,
    check_present,
    modality_from_config,
)

SEX = Category("sex", values=("female", "male"))
GLUCOSE = Scalar("glucose", unit="mg/dL", transform="log")
LABS = Table("labs", columns=(Scalar("ph"), SEX))
EVERY = [
    (Image("xray", channels=2, size=4), (2, 4, 4)),
    (Image("scan", size=(3, 5)), (1, 3, 5)),
    (TimeSeries("ecg", channels=2, length=7, rate=100.0), (2, 7)),
    (Spectrum("sky", wavelength=np.linspace(3600, 9800, 5)), (5,)),
    (GLUCOSE, ()),
    (Scalar("flux", transform="arcsinh", scale=0.5), ()),
    (SEX, ()),
    (LABS, (2,)),
    (Text("report", max_length=9), ()),
]
every = pytest.mark.parametrize(("modality", "shape"), EVERY, ids=lambda x: str(x))


@every
def test_a_declaration_survives_json(modality, shape):
    again = modality_from_config(json.loads(json.dumps(modality.to_config())))
    assert again == modality and hash(again) == hash(modality) and type(again) is type(modality)
    assert again.shape == shape


@pytest.mark.parametrize(("modality", "shape"), EVERY[:6], ids=lambda x: str(x))
def test_values_come_back_as_float32_and_absent_ones_as_zero(modality, shape):
    values = np.random.default_rng(0).uniform(1, 2, (3, *shape))
    values[1] = np.nan
    before = values.copy()
    x = modality.check(values, torch.tensor([True, False, True]))
    assert x.dtype == torch.float32 and x.shape == (3, *shape) and (x[1] == 0).all()
    np.testing.assert_array_equal(x[0].numpy(), values[0].astype(np.float32))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f2"])
def test_any_byte_order_and_read_only_arrays_are_read(kind):
    """FITS files hold big-endian numbers; frames hand out read-only ones."""
    values = np.array([1.5, 2.5], dtype=kind)
    values.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GLUCOSE.check(values).tolist() == [1.5, 2.5]


@pytest.mark.parametrize("present", [[True, False], np.array([True, False]), torch.tensor([True, False])])
def test_present_is_a_list_an_array_or_a_tensor(present):
    assert GLUCOSE.check([90.0, -1.0], present).tolist() == [90, 0]
    assert Text("report").check(["a", "b"], present).tolist() == ["a", ""]
    assert LABS.check([[7.0, 1.0], [np.nan, 0.7]], present).tolist() == [[7, 1], [0, 0]]
    assert check_present(SEX, present, 2).tolist() == [True, False]


def test_cells_of_a_table_go_missing_one_by_one():
    x = LABS.check([[7.0, np.nan], [np.nan, 1.0]], torch.tensor([[True, False], [False, True]]))
    assert x.tolist() == [[7, 0], [0, 1]]


def test_category_codes_come_back_as_int64():
    x = SEX.check(np.array([1, 0], dtype=np.uint8))
    assert x.dtype == torch.int64 and x.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("modality", "values", "error", "says"),
    [
        (GLUCOSE, [90, 80], TypeError, r"floating-point.*int64.*\.float\(\)"),
        (GLUCOSE, [90.0, np.nan, np.inf], ValueError, "2 NaN or infinite.*present"),
        (GLUCOSE, [1e300], ValueError, "1 NaN or infinite"),
        (GLUCOSE, [90.0, 0.0], ValueError, "transform='log' and 1 values <= 0.*arcsinh"),
        (GLUCOSE, [[90.0]], ValueError, r"shape \(B\), got \(1, 1\)"),
        (GLUCOSE, 90.0, ValueError, r"shape \(B\), got \(\)"),
        (Image("x", size=1), torch.zeros(1, 1, 1, 1).byte(), TypeError, r"uint8.*and into your unit"),
        (GLUCOSE, ["high"], TypeError, "numbers, got list"),
        (GLUCOSE, None, TypeError, "numbers, got NoneType"),
        (Image("xray", size=4), torch.zeros(2, 1, 4, 5), ValueError, r"\(B, 1, 4, 4\), got \(2, 1, 4, 5\)"),
        (SEX, [0.0, 1.0], TypeError, "integer codes 0..1"),
        (SEX, [0, 2, -1], ValueError, r"outside 0\.\.1: \[2, -1\]"),
        (LABS, [[7.4, 0.7]], ValueError, r"Category\('sex'\).*whole numbers, got \[0\.69"),
        (LABS, [[7.4, 2.0]], ValueError, r"outside 0\.\.1"),
        (LABS, [[7.4]], ValueError, r"\(B, 2\), got \(1, 1\)"),
        (Text("report"), "one string", TypeError, "sequence of strings"),
        (Text("report"), ["a", None], TypeError, "sequence of strings"),
        (Text("report"), 5, TypeError, "sequence of strings"),
    ],
)
def test_bad_values_are_refused(modality, values, error, says):
    with pytest.raises(error, match=rf"^\w+\('\w+'\).*{says}"):  # it names the modality first
        modality.check(values)


@pytest.mark.parametrize("present", [[True], [1, 0], [[True, True]], torch.zeros(2)])
def test_bad_present_is_refused(present):
    with pytest.raises(ValueError, match=r"present\['glucose'\] must be boolean of shape \(2,\)"):
        GLUCOSE.check([90.0, 80.0], present)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Scalar(""), "non-empty"),
        (lambda: Scalar("  "), "non-empty"),
        (lambda: Scalar("a/b"), "names a folder"),
        (lambda: Scalar("num.co"), "names a folder"),
        (lambda: Scalar("z", transform="log10"), "transform must be one of.*'arcsinh'.*'log10'"),
        (lambda: Scalar("z", scale=0.0), "scale must be positive"),
        (lambda: Scalar("z", scale=float("inf")), "scale must be positive and finite"),
        (lambda: Spectrum("s", wavelength=[1, 3, 2]), "increasing"),
        (lambda: Spectrum("s", wavelength=[1]), "two or more"),
        (lambda: Category("c"), "at least one value"),
        (lambda: Category("c", values=("a", "a")), "no value twice"),
        (lambda: Image("i", channels=0), "channels is in whole numbers of 1 or more, got 0"),
        (lambda: Image("i", size=-4), "size is in whole"),
        (lambda: Image("i", size="abc"), "size is in whole"),
        (lambda: Image("i", size=(4, 4, 4)), "one number, or .height, width"),
        (lambda: TimeSeries("s", length=2.5), "length is in whole"),
        (lambda: Text("t", max_length=0), "max_length is in whole"),
        (lambda: Table("t"), "at least one column"),
        (lambda: Table("t", columns=(SEX, SEX)), "no column name twice"),
        (lambda: check_names([SEX, SEX]), "must differ"),
        (
            lambda: modality_from_config({"kind": "smell", "name": "x"}),
            "Unknown kind.*'smell'.*known are image",
        ),
        (lambda: modality_from_config({"name": "x"}), "Unknown kind.*None"),
        (lambda: modality_from_config({"kind": "scalar", "name": "x", "colour": 1}), "Scalar can't be made"),
    ],
)
def test_bad_declarations_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_table_takes_scalars_and_categories_alone():
    with pytest.raises(TypeError, match="Scalar and Category alone"):
        Table("t", columns=(Image("i"),))


def test_a_generator_of_texts_is_read_whole_and_an_absent_text_is_not_looked_at():
    assert Text("t").check(word for word in ["a", "b"]).tolist() == ["a", "b"]
    assert Text("t").check(["a", None], torch.tensor([True, False])).tolist() == ["a", ""]


def test_arrays_that_run_backward_are_read():
    x = np.array([1.0, 2.0, 3.0])
    assert Scalar("z").check(x[::-1]).tolist() == [3.0, 2.0, 1.0]
