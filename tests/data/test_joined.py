"""Two sources of images as one dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from googlenet import ImageSplit, UserError, load_dataset
from googlenet.data.dataset import split_validation
from googlenet.data.joined import concatenate, load_joined, relabeled
from tests.data.conftest import write_image


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """One class with five images."""
    for number in range(5):
        write_image(tmp_path / "birds" / "parrots" / f"{number}.png", 100 + number)
    return tmp_path / "birds"


def images_by_file(split: ImageSplit) -> dict[str, tuple[int, bytes]]:
    return {
        Path(file).name: (int(label), split[number][0].numpy().tobytes())
        for number, (file, label) in enumerate(zip(split.files, split.labels, strict=True))
    }


def test_old_and_new_images_keep_their_splits(pets: Path, birds: Path) -> None:
    joined = load_joined(birds, pets, size=16)
    new, old = load_dataset(birds, size=16, is_part=True), load_dataset(pets, size=16)
    assert joined.classes == ("cats", "dogs", "parrots")
    for split, of_new, of_old in ((joined.train, new.train, old.train), (joined.test, new.test, old.test)):
        expected = {**images_by_file(of_old)}
        expected |= {file: (2, pixels) for file, (_, pixels) in images_by_file(of_new).items()}
        assert len(split) == len(of_new) + len(of_old)
        pixels = {(int(label), image.numpy().tobytes()) for image, label in (split[n] for n in range(len(split)))}
        assert pixels == {
            *images_by_file(of_old).values(), *((2, each) for _, each in images_by_file(of_new).values())
        }  # fmt: skip
        assert torch.equal(split[-1][0], split[len(split) - 1][0])
        whole, _ = split.__getitems__(torch.arange(len(split)))
        assert torch.equal(whole, split.images)
    assert joined.digest == f"{new.digest}+{old.digest}"
    assert joined.provenance()["also"]["sha256"] == old.digest
    path = joined.path_of(joined.train.files[0])
    assert path is not None and path.is_file()


def test_classes_of_both_are_one(pets: Path, tmp_path: Path) -> None:
    for number in range(5):
        write_image(tmp_path / "more" / "cats" / f"more-{number}.png", 200 + number)
        write_image(tmp_path / "more" / "ants" / f"more-{number}.png", 300 + number)
    joined = load_joined(tmp_path / "more", pets, size=16, on_demand=True)
    assert joined.classes == ("cats", "dogs", "ants") and not joined.train.is_decoded
    assert torch.bincount(joined.train.labels).tolist() == [12, 8, 4]
    labels = dict(zip(joined.train.files, joined.train.labels.tolist(), strict=True))
    assert all(joined.classes[label] == Path(file).parent.name for file, label in labels.items())


def test_images_in_both_are_named(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(pets / "cats", tmp_path / "more" / "cats")
    load_joined(tmp_path / "more", pets, size=16)
    assert "10 images are in" in capsys.readouterr().out


def test_gray_images_become_color_and_a_known_dataset_is_resized(
    pets: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = load_joined(pets, "fashion-mnist", size=16)
    assert joined.train.image_shape == (3, 16, 16)
    assert len(joined.classes) == 12 and len(joined.train) == 320 + 16
    known = [number for number, file in enumerate(joined.train.files) if joined.path_of(file) is None]
    assert len(known) == 320
    image = joined.train[known[0]][0].float()
    assert torch.equal(image[0], image[2])
    original = load_dataset().train
    assert float((image[0].mean() - original[0][0].float().mean()).abs()) < 6


def test_a_class_without_training_images(pets: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_image(tmp_path / "more" / name / "ants" / "1.png", 1)
        write_image(tmp_path / "more" / name / "bees" / "2.png", 2)
    (tmp_path / "more" / "train" / "bees" / "2.png").unlink()
    write_image(tmp_path / "more" / "train" / "ants" / "3.png", 3)
    with pytest.raises(UserError, match="bees"):
        load_joined(tmp_path / "more", pets, size=16)
    write_image(pets / "bees" / "1.png", 5)
    assert load_joined(tmp_path / "more", pets, size=16).classes == ("bees", "cats", "dogs", "ants")


def test_one_validation_split_is_not_enough(pets: Path, tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        write_image(tmp_path / "more" / name / "ants" / "1.png", ord(name[0]))
    with pytest.raises(UserError, match="validation"):
        load_joined(tmp_path / "more", pets, size=16)


def test_validation_images_of_an_earlier_run_stay_so(pets: Path, tmp_path: Path) -> None:
    """Also if the new images are of an old class, which has more images then."""
    for number in range(5):
        write_image(tmp_path / "more" / "cats" / f"more-{number}.png", 200 + number)
    write_image(tmp_path / "more" / "cows" / "too-few.png", 300)
    write_image(tmp_path / "more" / "cows" / "for-a-fraction.png", 301)
    _, before = split_validation(load_dataset(pets, size=16).train, 0.25, 0)
    validation = load_joined(tmp_path / "more", pets, size=16, validation=0.25).validation
    assert validation is not None
    held_out = {Path(file).name for file in validation.files if Path(file).is_relative_to(pets.name)}
    assert held_out == {Path(file).name for file in before.files} and len(validation) > len(before)


def test_old_images_have_a_validation_split_of_their_own(pets: Path, tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        for number in range(4):
            write_image(tmp_path / "old" / name / "ants" / f"{number}.png", 10 * ord(name[0]) + number)
    validation = load_joined(pets, tmp_path / "old", size=16, validation=0.25).validation
    assert validation is not None
    assert torch.bincount(validation.labels).tolist() == [4, 2, 2]
    with pytest.raises(UserError, match="validation"):
        load_joined(tmp_path / "old", shutil.copytree(tmp_path / "old", tmp_path / "copy"), size=16, validation=0.1)
    with pytest.raises(UserError, match="validation"):
        load_joined(pets, shutil.copytree(pets, tmp_path / "copies"), size=16, validation=0.01)


def test_sources_that_cannot_be_mixed(pets: Path) -> None:
    with pytest.raises(UserError, match="--also"):
        load_joined(pets, pets.parent / "." / pets.name, size=16)
    with pytest.raises(UserError, match="--also"):
        load_joined("fashion-mnist", "fashion-mnist", size=16)
    with pytest.raises(UserError, match="absent"):
        load_joined(pets, "absent", size=16)


def test_one_class_only(birds: Path) -> None:
    with pytest.raises(UserError, match="one class"):
        load_joined(birds, shutil.copytree(birds, birds.parent / "copy"), size=16)
    with pytest.raises(UserError, match="one class"):
        load_dataset(birds)


def test_unknown_classes_and_shapes(pets: Path) -> None:
    with pytest.raises(UserError, match="dogs"):
        relabeled(load_dataset(pets, size=16), ("cats",))
    with pytest.raises(UserError, match="shapes"):
        concatenate([load_dataset(pets, size=size).train for size in (16, 24)])


def test_the_same_images_are_held_out_whatever_other_classes_there_are(pets: Path) -> None:
    alone = load_dataset(pets, size=16)
    among = load_dataset(pets, size=16, classes=("dogs", "ants", "cats"))
    assert sorted(alone.test.files) == sorted(among.test.files)
