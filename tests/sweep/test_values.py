import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnet_paths.sweep.values import columns, decode_values, encode_values, plain_values

numbers = st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
kinds = (
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64)) | hnp.complex_number_dtypes()
)
arrays = hnp.arrays(kinds, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))


@given(st.dictionaries(st.text(), numbers | arrays, min_size=1))
def test_values_come_back_bit_by_bit(values: dict) -> None:
    back = decode_values(encode_values(plain_values(values)))
    assert back.keys() == values.keys()
    for name, value in values.items():
        assert type(back[name]) is type(value)
        if isinstance(value, np.ndarray):
            assert back[name].dtype == value.dtype
            assert back[name].shape == value.shape
            assert back[name].tobytes() == value.tobytes()
        else:
            assert repr(back[name]) == repr(value)


def test_nan_with_a_payload_in_an_array_is_kept() -> None:
    bits = np.array([0x7FF8000000000123, 0xFFF0000000000000, 1 << 63], np.uint64).view(np.float64)
    back = decode_values(encode_values({"x": bits}))["x"]
    assert back.tobytes() == bits.tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool])
def test_tensors_of_every_type_keep_their_values(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0.0, 1.0, -0.5 if dtype.is_floating_point else 1.0]).to(dtype)
    got = plain_values({"x": tensor.requires_grad_(dtype.is_floating_point)})["x"]
    assert got.tolist() == tensor.detach().double().tolist()


def test_single_values_have_a_name() -> None:
    assert plain_values(torch.tensor(2.0)) == {"value": 2.0}
    assert plain_values(np.int64(3)) == {"value": 3}


@pytest.mark.parametrize(
    "returned",
    [None, {}, {"a": None}, {1: 2.0}, {"a": [1]}, {"a": np.array([object()])}],
    ids=lambda value: type(value).__name__,
)
def test_other_returns_are_refused(returned: object) -> None:
    with pytest.raises(TypeError, match="expected"):
        plain_values(returned)


def column(*values: object, length: int | None = None) -> np.ndarray:
    gaps = (length or len(values)) - len(values)
    return columns([*({"x": value} for value in values), *[None] * gaps])["x"]


def test_columns_keep_exact_types() -> None:
    assert column(1, 2).dtype == np.int64
    assert column(True, False).dtype == bool
    assert column(1, 0.5).dtype == np.float64
    assert column(2**53 + 1, 0.5).tolist() == [2**53 + 1, 0.5]
    assert column(2**70, 1).tolist() == [2**70, 1]
    assert column(1j, 2j).dtype == complex
    assert column("a", "b").tolist() == ["a", "b"]
    assert column(np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)).shape == (2, 2, 3)
    ragged = column(np.zeros(2), np.ones(3))
    assert [cell.shape for cell in ragged] == [(2,), (3,)]


def test_gaps_in_columns_are_nan_for_floats_and_none_for_the_rest() -> None:
    assert np.isnan(column(0.5, length=2)[1])
    assert column(1, length=2).tolist() == [1, None]
    assert column(True, length=2).tolist() == [True, None]
    assert np.isnan(column(np.zeros(3), length=2)[1]).all()
