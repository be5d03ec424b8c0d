"""The container: what goes in comes out, splits never part an object, bad input is refused with a reason."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from aion_lite.data import MultimodalDataset
from aion_lite.modalities import Category, Image, Scalar, Table, Text

AGE, SEX = Scalar("age", unit="years"), Category("sex", values=("female", "male"))
LABS = Table("labs", columns=(Scalar("ph"), Category("cancer", values=("no", "yes", "metastatic"))))


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [61.5, np.nan, 40.0, 7.25],
            "sex": ["male", "female", None, "male"],
            "ph": [7.4, np.nan, 7.1, np.nan],
            "cancer": [None, "yes", "metastatic", None],
        }
    )


def test_frame_round_trip_by_hand():
    ds = MultimodalDataset.from_frame(frame(), [AGE, SEX, LABS])
    assert ds.present["age"].tolist() == [True, False, True, True]
    assert ds.values["sex"].tolist() == [1, 0, 0, 1] and not ds.present["sex"][2]
    assert ds.present["labs"].tolist() == [[True, False], [False, True], [True, True], [False, False]]
    back = ds.to_frame()
    assert list(back) == ["age", "sex", "ph", "cancer"]
    pd.testing.assert_frame_equal(back[["age", "ph"]], frame()[["age", "ph"]].astype(np.float32))
    for name in ("sex", "cancer"):
        assert back[name].fillna("no" if name == "cancer" else "male").tolist() == (
            frame()[name].fillna("no" if name == "cancer" else "male").tolist()
        )
        assert back[name].isna().tolist() == frame()[name].isna().tolist()
    again = MultimodalDataset.from_frame(back, [AGE, SEX, LABS])
    for name in ds.modalities:
        assert torch.equal(again.values[name], ds.values[name])
        assert torch.equal(again.present[name], ds.present[name])


def test_to_frame_gives_a_float_matrix_with_nan():
    x = MultimodalDataset.from_frame(frame(), [AGE, SEX, LABS]).to_frame(["age"]).to_numpy()
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[:, 0], np.float32([61.5, np.nan, 40.0, 7.25]))


def test_to_frame_takes_a_table_that_is_absent_by_row():
    ds = MultimodalDataset([LABS], {"labs": [[7.4, 0.0], [7.0, 1.0]]}, {"labs": [True, False]})
    assert ds.to_frame()["ph"].isna().tolist() == [False, True]


def test_to_frame_refuses_an_image_and_a_column_twice():
    ds = MultimodalDataset([AGE, Image("xray", size=2)], {"age": [1.0], "xray": torch.zeros(1, 1, 2, 2)})
    assert list(ds.to_frame()) == ["age"]
    with pytest.raises(ValueError, match=r"Image\('xray'\).*columns"):
        ds.to_frame(["xray"])
    with pytest.raises(ValueError, match=r"Not declared.*'weight'"):
        ds.to_frame(["weight"])
    twice = Table("more", columns=(AGE,))
    ds = MultimodalDataset([AGE, twice], {"age": [1.0], "more": [[2.0]]})
    with pytest.raises(ValueError, match=r"Two columns.*'age'"):
        ds.to_frame()


def test_text_goes_through_a_frame_and_back():
    note = Text("note")
    source = pd.DataFrame({"note": ["well", None, "", np.nan, "ill"]}, dtype=object)
    ds = MultimodalDataset.from_frame(source, [note])
    assert ds.values["note"].tolist() == ["well", "", "", "", "ill"]
    assert ds.present["note"].tolist() == [True, False, True, False, True]  # an empty note is a note
    again = MultimodalDataset.from_frame(ds.to_frame(), [note])
    assert again.values["note"].tolist() == ds.values["note"].tolist()
    assert torch.equal(again.present["note"], ds.present["note"])
    assert ds[[4, 0]].values["note"].tolist() == ["ill", "well"] and ds[4] == {"note": "ill"}
    with pytest.raises(TypeError, match=r"Text\('note'\) needs a sequence of strings"):
        MultimodalDataset.from_frame(pd.DataFrame({"note": [1.5, 2.0]}), [note])


def test_selecting_samples():
    info = {"err": np.arange(4.0)}
    ds = MultimodalDataset.from_frame(frame(), [AGE, SEX, LABS], ids=list("abca"), info=info)
    assert ds[1].keys() == {"sex", "labs"}  # a sample holds what was measured
    assert float(ds[-1]["age"]) == 7.25
    for part in (ds[::-1], ds[[3, 2, 1, 0]], ds[torch.tensor([3, 2, 1, 0])]):
        assert part.ids.tolist() == list("acba") and part.info["err"].tolist() == [3, 2, 1, 0]
        assert part.values["age"].tolist() == [7.25, 40.0, 0.0, 61.5]
    assert len(ds[ds.present["age"]]) == 3
    assert len(list(ds)) == 4
    with pytest.raises(IndexError):
        ds[4]
    with pytest.raises(ValueError, match="no sample"):
        ds[[False] * 4]


@settings(max_examples=50, deadline=None)
@given(
    ids=st.lists(st.integers(0, 12) | st.sampled_from("abc"), min_size=2, max_size=40).map(
        lambda x: list(map(str, x))
    ),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
def test_split_keeps_objects_whole_and_loses_nothing(ids, share, seed):
    ds = MultimodalDataset([AGE], {"age": torch.arange(len(ids)) + 0.5}, ids=ids)
    objects = len(set(ids))
    if not 0 < round(share * objects) < objects:
        with pytest.raises(ValueError, match="both sides"):
            ds.split(share, seed)
        return
    train, test = ds.split(share, seed)
    assert not set(train.ids) & set(test.ids)
    assert len(set(test.ids)) == round(share * objects)
    both = torch.cat([train.values["age"], test.values["age"]])
    assert torch.equal(both.sort().values, ds.values["age"])
    again = ds.split(share, seed)
    assert again[0].ids.tolist() == train.ids.tolist() and again[1].ids.tolist() == test.ids.tolist()


def test_split_does_not_depend_on_the_order_of_samples():
    ids = np.arange(30) // 3
    ds = MultimodalDataset([AGE], {"age": torch.arange(30.0)}, ids=ids)
    assert set(ds.split(4, seed=1)[1].ids) == set(ds[::-1].split(4, seed=1)[1].ids)
    assert set(ds.split(4, seed=1)[1].ids) != set(ds.split(4, seed=2)[1].ids)


def test_split_of_single_samples_is_that_of_scikit_learn():
    ds = MultimodalDataset([AGE], {"age": torch.arange(10_000.0)})
    expected = train_test_split(np.arange(10_000), test_size=2000, random_state=0)[1]
    assert set(ds.split(2000, seed=0)[1].ids) == set(ds.split(0.2, seed=0)[1].ids) == set(expected)


@pytest.mark.parametrize("test", [1.0, 2.0, 0.0, -0.5, np.float32(1.0), float("nan")])
def test_split_refuses_a_share_that_is_none(test):
    with pytest.raises(ValueError, match=r"between 0 and 1, got .*as an int"):
        MultimodalDataset([AGE], {"age": torch.arange(4.0)}).split(test)


@pytest.mark.parametrize("test", [0, 4, 5, -1, 0.01])
def test_split_refuses_an_empty_side(test):
    with pytest.raises(ValueError, match=rf"Can't keep {test} of 4 objects"):
        MultimodalDataset([AGE], {"age": torch.arange(4.0)}).split(test)


def test_everything_absent_is_allowed_and_values_are_not_looked_at():
    ds = MultimodalDataset([AGE], {"age": [np.nan, np.inf]}, {"age": [False, False]})
    assert ds.values["age"].tolist() == [0.0, 0.0] and ds[0] == {}
    assert ds.to_frame()["age"].isna().all()


@pytest.mark.parametrize(
    ("values", "present", "error", "says"),
    [
        ({"age": []}, None, ValueError, "empty"),
        ({"age": [1.0, np.nan]}, None, ValueError, "1 NaN or infinite.*present"),
        ({"age": [1.0, -np.inf]}, None, ValueError, "1 NaN or infinite"),
        ({"age": 1.0}, None, TypeError, r"Scalar\('age'\) needs an array"),
        ({"age": torch.tensor(1.0)}, None, TypeError, "needs an array"),
        ({"age": [1, 2]}, None, TypeError, "floating-point.*int64.*Category"),
        ({"age": ["old", "young"]}, None, TypeError, "numbers"),
        ({"age": [[1.0, 2.0]]}, None, ValueError, r"shape \(B\), got \(1, 2\)"),
        ({"age": [1.0], "mass": [2.0]}, None, ValueError, "not declared.*mass"),
        ({"age": [1.0]}, {"mass": [True]}, ValueError, "not declared.*mass"),
        ({}, None, ValueError, "missing.*age"),
        ({"age": [1.0, 2.0]}, {"age": [True]}, ValueError, r"boolean of shape \(2,\)"),
        ({"age": [1.0, 2.0]}, {"age": [1, 0]}, ValueError, "boolean"),
    ],
)
def test_bad_input_is_refused(values, present, error, says):
    with pytest.raises(error, match=says):
        MultimodalDataset([AGE], values, present)


def test_bad_tables_categories_lengths_and_frames_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 2\), got \(1, 3\)"):
        MultimodalDataset([LABS], {"labs": [[7.4, 0.0, 1.0]]})
    with pytest.raises(ValueError, match=r"codes outside 0\.\.2"):
        MultimodalDataset([LABS], {"labs": [[7.4, 3.0]]})
    with pytest.raises(TypeError, match="integer codes"):
        MultimodalDataset([SEX], {"sex": [0.0, 1.0]})
    with pytest.raises(ValueError, match="one value a sample"):
        MultimodalDataset([AGE, SEX], {"age": [1.0, 2.0], "sex": [0]})
    with pytest.raises(ValueError, match="'ids' has 1 rows"):
        MultimodalDataset([AGE], {"age": [1.0, 2.0]}, ids=["a"])
    with pytest.raises(ValueError, match="must differ"):
        MultimodalDataset([AGE, AGE], {"age": [1.0]})
    with pytest.raises(ValueError, match="no column 'age'"):
        MultimodalDataset.from_frame(frame()[["sex"]], [AGE])
    with pytest.raises(TypeError, match=r"'age'.*column of numbers.*'old'.*Category"):
        MultimodalDataset.from_frame(pd.DataFrame({"age": ["old", "young"]}), [AGE])
    with pytest.raises(ValueError, match=r"not declared: \['other'\]"):
        MultimodalDataset.from_frame(frame().replace("female", "other"), [SEX])
    with pytest.raises(ValueError, match="empty"):
        MultimodalDataset.from_frame(frame()[:0], [AGE, SEX, LABS])


@pytest.mark.parametrize("ids", [["a", None], [1.0, np.nan], [[1, 2], [3, 4]]])
def test_ids_that_name_no_object_are_refused(ids):
    with pytest.raises(ValueError, match="name the object of every sample"):
        MultimodalDataset([AGE], {"age": [1.0, 2.0]}, ids=ids)


def test_dates_are_no_numbers():
    dates = pd.DataFrame({"age": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    with pytest.raises(TypeError, match="numbers, got datetime64"):
        MultimodalDataset.from_frame(dates, [AGE])


def test_whole_numbers_of_a_category_keep_their_names_beside_an_empty_cell():
    """pandas makes floats of them: 0 becomes 0.0, which nobody declared."""
    frame = pd.DataFrame({"dead": [0, 1, None, 1]})
    data = MultimodalDataset.from_frame(frame, [Category("dead", values=("0", "1"))])
    assert data.values["dead"][data.present["dead"]].tolist() == [0, 1, 1]
    assert data.present["dead"].tolist() == [True, True, False, True]
    halves = pd.DataFrame({"dose": [0.5, 1.0, None]})
    doses = MultimodalDataset.from_frame(halves, [Category("dose", values=("0.5", "1.0"))])
    assert doses.values["dose"][:2].tolist() == [0, 1]
    ones = Category("dose", values=("1.0", "2.0"))
    doses = MultimodalDataset.from_frame(pd.DataFrame({"dose": [1.0, 2.0]}), [ones])
    assert doses.values["dose"].tolist() == [0, 1]
