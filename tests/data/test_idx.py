from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from googlenet import UserError
from googlenet.data import idx

images = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 5)).flatmap(lambda s: arrays(np.uint8, s))


@given(images)
def test_what_is_dumped_is_parsed(values: np.ndarray) -> None:
    np.testing.assert_array_equal(idx.parse(idx.dump(values), 3, "x"), values)


@given(st.binary(max_size=40), st.sampled_from([1, 3]))
def test_any_bytes_are_an_array_or_a_clear_error(content: bytes, dimensions: int) -> None:
    try:
        values = idx.parse(content, dimensions, "some file")
    except UserError as error:
        assert "some file" in str(error)
        assert "\n" not in str(error)
    else:
        assert idx.dump(values) == content


@given(images, st.data())
def test_a_truncated_file_never_parses(values: np.ndarray, data: st.DataObject) -> None:
    content = idx.dump(values)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UserError):
        idx.parse(content[:cut], 3, "x")


def test_reading_says_which_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    with pytest.raises(UserError, match=r"labels\.gz is missing"):
        idx.read_bytes(path)
    whole = gzip.compress(np.random.default_rng(0).bytes(1000))
    for content in (b"", whole[:-9], whole[:20], b"plain", whole[:30] + b"\x00" + whole[31:]):
        path.write_bytes(content)
        if content == b"":
            assert idx.read_bytes(path) == b""
            continue
        with pytest.raises(UserError, match=r"labels\.gz is missing, truncated or damaged"):
            idx.read_bytes(path)
