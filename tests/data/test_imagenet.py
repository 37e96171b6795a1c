"""The layouts of ImageNet's archives, with a few images."""

from __future__ import annotations

from pathlib import Path

import pytest

import googlenet
from googlenet import UserError
from googlenet.data.dataset import list_files
from googlenet.data.folder import scan
from googlenet.data.imagenet import imagenet_classes, synsets
from tests.data.conftest import write_image

TENCH, SNAKE, ALP = "n01440764", "n01751748", "n09193705"
# The classes of the first two validation images: 490 and 361 in the development kit
SOLUTION = "ImageId,PredictionString\nILSVRC2012_val_00000002,n09193705 1 2 3 4 n09193705 5 6 7 8\n"
SOLUTION += "ILSVRC2012_val_00000001,n01751748 111 108 441 193\n"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What Kaggle's archive unpacks to."""
    images = tmp_path / "kaggle/ILSVRC/Data/CLS-LOC"
    for number, wnid in enumerate((TENCH, SNAKE, ALP)):
        for copy in range(2):
            write_image(images / "train" / wnid / f"{wnid}_{copy}.JPEG", 2 * number + copy)
    for number in (1, 2):
        write_image(images / "val" / f"ILSVRC2012_val_{number:08}.JPEG", 10 + number)
    write_image(images / "test" / "ILSVRC2012_test_00000001.JPEG", 20)
    return tmp_path / "kaggle"


def labels(folder: Path) -> dict[str, tuple[str, str | None]]:
    listing = list_files(folder)
    return {path.name: (listing.classes[label], split) for path, label, split in listing.files}


def test_the_classes_are_in_the_order_of_published_networks() -> None:
    wnids = [synset.wnid for synset in synsets()]
    assert wnids == sorted(set(wnids))
    assert sorted(synset.number for synset in synsets()) == list(range(1, 1001))
    assert (imagenet_classes()[0], imagenet_classes()[-1], len(set(imagenet_classes()))) == (
        "tench",
        "toilet tissue",
        1000,
    )


@pytest.mark.parametrize("part", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_archive_from_any_of_its_folders(archive: Path, part: str) -> None:
    (archive / "LOC_val_solution.csv").write_text(SOLUTION)
    found = labels(archive / part)
    assert found["ILSVRC2012_val_00000001.JPEG"] == ("sea snake", "validation")
    assert found["ILSVRC2012_val_00000002.JPEG"] == ("alp", "validation")
    assert found[f"{TENCH}_0.JPEG"] == ("tench", "train")
    assert list_files(archive).classes == ("tench", "sea snake", "alp")
    assert "ILSVRC2012_test_00000001.JPEG" not in found


@pytest.mark.parametrize("place", ["", "ILSVRC2012_devkit_t12/data"])
def test_the_ground_truth_of_the_development_kit(archive: Path, place: str) -> None:
    images = archive / "ILSVRC/Data/CLS-LOC"
    file = images / place / "ILSVRC2012_validation_ground_truth.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("490\n361\n171\n")
    assert labels(images)["ILSVRC2012_val_00000001.JPEG"] == ("sea snake", "validation")
    assert labels(images)["ILSVRC2012_val_00000002.JPEG"] == ("alp", "validation")


def test_the_validation_images_alone(archive: Path) -> None:
    (archive / "LOC_val_solution.csv").write_text(SOLUTION)
    found = labels(archive / "ILSVRC/Data/CLS-LOC/val")
    assert found == {"ILSVRC2012_val_00000001.JPEG": ("sea snake", None), "ILSVRC2012_val_00000002.JPEG": ("alp", None)}


def test_sorted_validation_images_need_no_file(archive: Path) -> None:
    val = archive / "ILSVRC/Data/CLS-LOC/val"
    for number, wnid in ((1, SNAKE), (2, ALP)):
        (val / wnid).mkdir()
        (val / f"ILSVRC2012_val_{number:08}.JPEG").rename(val / wnid / f"ILSVRC2012_val_{number:08}.JPEG")
    assert labels(archive)["ILSVRC2012_val_00000001.JPEG"] == ("sea snake", "validation")


def test_without_a_usable_file_of_labels(archive: Path) -> None:
    with pytest.raises(UserError, match=r"LOC_val_solution\.csv.*ILSVRC2012_validation_ground_truth\.txt"):
        list_files(archive)
    solution = archive / "LOC_val_solution.csv"
    solution.write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01751748 1 2 3 4\n")
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000002\.JPEG"):
        list_files(archive)
    for damaged in (SOLUTION.replace("n01751748", "n00000000"), SOLUTION + "other\n", SOLUTION + "a,b,c\n", '"'):
        solution.write_text(damaged)
        with pytest.raises(UserError, match=r"LOC_val_solution\.csv"):
            list_files(archive)
    solution.unlink()
    (archive / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n1001\n")
    with pytest.raises(UserError, match="line 2"):
        list_files(archive)


def test_another_file_of_labels_is_another_dataset(archive: Path) -> None:
    digests = set()
    for wnid in (SNAKE, TENCH):
        (archive / "LOC_val_solution.csv").write_text(SOLUTION.replace(SNAKE, wnid))
        digests.add(scan(list_files(archive)).digest)
    assert len(digests) == 2


def test_numbers_are_kept_where_they_are_the_models_classes_or_not_all_of_imagenet(archive: Path) -> None:
    train = archive / "ILSVRC/Data/CLS-LOC/train"
    assert list_files(train, (TENCH, SNAKE, ALP)).classes == (TENCH, SNAKE, ALP)
    assert list_files(train, imagenet_classes()).labels == {0, 65, 970}
    write_image(train / "n99999999" / "a.JPEG")
    assert list_files(train).classes == (TENCH, SNAKE, ALP, "n99999999")


def test_the_test_split_is_the_validation_folder(archive: Path) -> None:
    (archive / "LOC_val_solution.csv").write_text(SOLUTION)
    dataset = googlenet.load_dataset(archive, size=8)
    assert [dataset.classes[label] for label in dataset.test.labels] == ["sea snake", "alp"]
    assert dataset.validation is None
