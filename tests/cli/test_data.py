"""`googlenet data list`, `fetch`, `check` and `show`."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Call, write_photos
from tests.data.test_folder import break_links


def test_list_and_fetch(call: Call, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, *on_the_hub = json.loads(call("data", "list", "--json")[0])
    assert "hf:cifar10" in [other["name"] for other in on_the_hub]
    assert (row["name"], row["found"]) == ("fashion-mnist", str(small_data))
    assert str(small_data) in call("data", "list")[0]
    monkeypatch.delenv("GOOGLENET_DATA")
    assert "googlenet data fetch fashion-mnist" in call("data", "list")[0]
    out, err = call("data", "fetch", code=1)
    assert out == ""
    assert "http://127.0.0.1:9/" in err and err.count("\n") == 1


def test_fetch_prints_nothing_but_the_folder(call: Call, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLENET_DATA")
    cache = Path("cache/googlenet/fashion-mnist").absolute()
    cache.mkdir(parents=True)
    for file in small_data.iterdir():
        (cache / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    assert call("data", "fetch")[0] == f"{cache}\n"
    assert json.loads(call("data", "fetch", "fashion-mnist", "--json")[0]) == {
        "name": "fashion-mnist",
        "folder": str(cache),
    }


def test_show(call: Call, small_data: Path) -> None:
    out, _ = call("data", "show", "--count", 20)
    assert "Ankle boot" in out and "fashion-mnist.png" in out
    call("data", "show", "--augment", "strong", "--count", 16, "-o", "augmented.png")
    for name in ("fashion-mnist.png", "augmented.png"):
        with Image.open(name) as sheet:
            assert sheet.size[0] > 500


def test_show_a_folder(call: Call, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "boot" / "bad.png").write_bytes(b"")
    out, err = call("data", "show", photos, "--skip-unreadable", "--count", 10, "--json")
    shown = json.loads(out)
    assert shown["classes"] == {"boot": {"train": 10, "test": 2}, "trouser": {"train": 10, "test": 2}}
    assert "boot 13, trouser 12" in err
    assert any("bad.png" in line for line in shown["skipped"])
    monkeypatch.setenv("HOME", str(photos.parent))
    call("data", "show", "~/photos", "--skip-unreadable", "--output=~/sheet.png")
    assert (photos.parent / "sheet.png").exists()
    assert not Path("~").exists()


def test_check(call: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = call("data", "check", photos)
    assert "boot 12, trouser 12" in out
    (photos / "boot" / "bad.png").write_bytes(b"")
    assert "bad.png" in call("data", "check", photos, code=1)[0]
    report = json.loads(call("data", "check", photos, "--json", code=1)[0])
    assert [Path(name).name for name in report["unreadable"]] == ["bad.png"]
    monkeypatch.setenv("HOME", str(tmp_path))
    call("data", "check", "~/photos", "--quarantine=~/aside", "--output=~/report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["classes"] == {"boot": 13, "trouser": 12}
    assert (tmp_path / "aside" / "boot" / "bad.png").exists()
    assert not Path("~").exists()


def write_predictions(folder: Path, path: Path, wrong: set[str]) -> None:
    """Out-of-fold predictions that are confident of each label, except for the images with these names."""
    classes = ("boot", "trouser")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", *(f"probability:{name}" for name in classes)])
        for number, image in enumerate(sorted(folder.glob("*/*.png"))):
            label = image.parent.name
            share = 0.02 if image.name in wrong else 0.9 + number / 1000
            shares = [share, 1 - share] if label == "boot" else [1 - share, share]
            writer.writerow([image.relative_to(folder).as_posix(), label, *shares])


def test_check_writes_suspects(call: Call, photos: Path) -> None:
    boots = sorted((photos / "boot").iterdir())
    Image.open(boots[1]).resize((56, 56)).save(photos / "boot" / "larger.bmp")
    boots[2].write_bytes(boots[2].read_bytes()[:-30])
    boots[0].rename(photos / "trouser" / "bo ot.png")
    write_predictions(photos, Path("out_of_fold.csv"), {"bo ot.png", boots[2].name})
    arguments = ("data", "check", photos, "--predictions", "out_of_fold.csv", "--suspects", "found/suspects")
    report = json.loads(call(*arguments, "--json", code=1)[0])
    assert list(report["unreadable"]) == [str(boots[2])]
    (error,) = report["label_errors"]
    assert (error["class"], error["suggested_class"], report["predicted"]) == ("trouser", "boot", 24)
    assert error["file"] == str(photos / "trouser" / "bo ot.png")
    assert [len(group["files"]) for group in report["near_duplicates"]] == [2]
    with Path("found/suspects/suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["kind"], row["suggested_class"], row["other_file"]) for row in rows] == [
        ("trouser/bo ot.png", "label", "boot", ""),
        (f"boot/{boots[1].name}", "near-duplicate", "", "boot/larger.bmp"),
        ("boot/larger.bmp", "near-duplicate", "", f"boot/{boots[1].name}"),
    ]
    assert [0.9 < float(row["score"]) <= 1 for row in rows] == [True] * 3
    tasks = json.loads(Path("found/suspects/label_studio.json").read_text())
    assert [task["data"]["file"] for task in tasks] == [row["file"] for row in rows]
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=photos/trouser/bo%20ot.png"
    (result,) = tasks[0]["predictions"][0]["result"]
    assert result["type"] == "choices" and result["value"] == {"choices": ["boot"]}
    with Image.open("found/suspects/suspects.png") as sheet:
        assert sheet.size[0] > 500

    out, _ = call(*arguments, "--image-root", "https://example.com/", "--quarantine", "aside")
    assert "bo ot.png" in out and "larger.bmp" in out
    tasks = json.loads(Path("found/suspects/label_studio.json").read_text())
    assert tasks[0]["data"]["image"] == "https://example.com/trouser/bo%20ot.png"


def test_check_without_suspects_writes_empty_files(call: Call, photos: Path) -> None:
    call("data", "check", photos, "--suspects", "found")
    assert Path("found/suspects.csv").read_text().count("\n") == 1
    assert json.loads(Path("found/label_studio.json").read_text()) == []
    assert Path("found/suspects.png").exists()


@pytest.mark.parametrize("package", ["cleanlab", "imagehash"])
def test_check_names_the_package_to_install(
    package: str, call: Call, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("googlenet.device.find_spec", lambda name: None if name == package else find_spec(name))
    write_predictions(photos, Path("out_of_fold.csv"), set())
    arguments = ("--predictions", "out_of_fold.csv", "--suspects", "found")
    assert f"pip install {package}" in call("data", "check", photos, *arguments, code=2)[1]
    assert not Path("found").exists()


def test_links_that_lead_nowhere(call: Call) -> None:
    """They end neither `data check` nor training with an error of the system."""
    write_photos(Path("photos"), of_each=6)
    for folder, name in (("boot", "cats"), ("trouser", "dogs")):
        Path("photos", folder).rename(Path("photos", name))
    next(Path("photos/cats").iterdir()).rename("photos/cats/0.png")
    break_links(Path("photos"))
    out, _ = call("data", "check", "photos", code=1)
    assert out.count("loop.png") == 1
    _, err = call("train", "--data", "photos", "--max-steps", 1, code=2)
    assert "--skip-unreadable" in err
    assert json.loads(call("data", "show", "photos", "--skip-unreadable", "--json")[0])["train_images"] == 9


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("show", "cifar"), 2, "cifar"),
        (("show", "--count", 0), 2, "not 0"),
        (("show", "--count", 15, "--augment", "light"), 2, "16"),
        (("show", "-o", "sheet.jpg"), 2, ".png"),
        (("fetch", "cifar"), 2, "cifar"),
        (("check", "missing"), 2, "missing"),
        (("check", "photos", "--quarantine", "photos/aside"), 2, "--quarantine"),
        (("check", "photos", "--suspects", "photos/suspects"), 2, "--suspects"),
        (("check", "photos", "--image-root", "x"), 2, "--suspects"),
        (("check", "photos", "--predictions", "missing.csv", "--suspects", "found"), 2, "missing.csv"),
    ],
)
def test_wrong_calls(arguments: tuple[object, ...], code: int, named: str, call: Call, small_data: Path) -> None:
    write_photos(Path("photos"), of_each=1)
    assert named in call("data", *arguments, code=code)[1]
    assert [path.name for path in Path().iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (("check", "photos", "--output", "file/report.json"), "googlenet.data.folder_check.check_folder"),
        (("check", "photos", "--quarantine", "file/aside"), "googlenet.data.folder_check.scan"),
        (("check", "photos", "--suspects", "file/suspects"), "googlenet.data.folder_check.check_folder"),
        (("show", "photos", "--output", "file/sheet.png"), "googlenet.data.dataset.load_dataset"),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error_before_the_work(
    arguments: tuple[str, ...], work: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(Path("photos"), of_each=1)
    Path("file").write_text("")
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("the work has started"))
    assert "file/" in call("data", *arguments, code=1)[1]
