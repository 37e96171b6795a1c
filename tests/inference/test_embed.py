from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from googlenet import Predictor, TrainingResult, UserError
from googlenet.inference.embed import embed_files
from tests.conftest import Call

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture(scope="module")
def predictor(trained: TrainingResult) -> Predictor:
    return Predictor(trained.model, precision="fp32")


def test_features_in_files(predictor: Predictor, files: list[Path], tmp_path: Path) -> None:
    expected = predictor.embed(files[:1] + files[2:])
    files[1].write_bytes(b"")
    for suffix in ("npy", "parquet"):
        result = embed_files(predictor, files, tmp_path / f"x.{suffix}", batch_size=7)
        assert result == (19, 1, [])
    names = [str(file) for file in files[:1] + files[2:]]
    found = np.load(tmp_path / "x.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert (tmp_path / "x.npy.txt").read_text(encoding="utf-8").splitlines() == names
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "x.parquet")
    assert table["file"].to_pylist() == names
    np.testing.assert_array_equal(np.stack(table["features"].to_numpy()), found)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_no_images(suffix: str, predictor: Predictor, tmp_path: Path) -> None:
    assert embed_files(predictor, [], tmp_path / f"x.{suffix}") == (0, 0, [])
    if suffix == "npy":
        assert np.load(tmp_path / "x.npy").shape[0] == 0


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_an_interrupted_file_is_not_there(suffix: str, predictor: Predictor, files: list[Path], tmp_path: Path) -> None:
    def interrupted() -> object:
        yield from files
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files(predictor, interrupted(), tmp_path / f"x.{suffix}", batch_size=4)
    assert not [path for path in tmp_path.iterdir() if path not in files]


@pytest.mark.parametrize("block", ["3b", "5b"])
def test_nearest_by_cosine(block: str, predictor: Predictor, files: list[Path]) -> None:
    features = predictor.embed(files, block=block)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities = units @ units[4]
    best = [number for number in np.argsort(-similarities) if number != 4][:3]
    files[4] = files[4].rename(files[4].with_name("in two\nlines.png"))  # its name in the results is another
    result = embed_files(predictor, files, block=block, nearest=files[4], top=3)
    assert [neighbor.file for neighbor in result.nearest] == [str(files[number]) for number in best]
    found = [neighbor.similarity for neighbor in result.nearest]
    assert found == pytest.approx(similarities[best].tolist(), abs=1e-5)


def test_invalid_arguments(predictor: Predictor, files: list[Path], tmp_path: Path) -> None:
    for options, name in (({"block": "6a"}, "6a"), ({"top": 0}, "top"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(UserError, match=name):
            embed_files(predictor, files, tmp_path / "x.npy", **options)
    assert not (tmp_path / "x.npy").exists()


def test_the_command(call: Call, trained: TrainingResult, images: Path) -> None:
    out, err = call("embed", trained.folder, images, "-o", "x.npy", "--nearest", images / "1.png", "--json", code=1)
    summary = json.loads(out)
    assert (summary["embedded"], summary["failed"], summary["output"]) == (5, 1, "x.npy")
    assert "broken.png" in err
    similarities = [neighbor["similarity"] for neighbor in summary["nearest"]]
    assert len(similarities) == 4 and similarities == sorted(similarities, reverse=True)
    assert np.load("x.npy").shape == (5, 1024)
    (images / "broken.png").unlink()
    arguments = ("embed", trained.folder, images, "--nearest", images / "1.png", "--top", 2, "--block", "4a")
    assert len(call(*arguments)[0].splitlines()) == 2
    for wrong, name in (
        ((images,), "--output"),
        (("-o", "x.npy"), "IMAGE"),
        ((images, "-o", "x.txt"), ".parquet"),
        ((images, "-o", "y.npy", "--nearest", "missing.png"), "missing.png"),
    ):
        assert name in call("embed", trained.folder, *wrong, code=2)[1]
    assert not Path("y.npy").exists()
