"""How many wrong labels `googlenet data check --predictions` finds: gives some images of a folder the label of another
class, predicts each image by a network that was not trained on it, and counts. The folder itself is not changed."""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import googlenet

SETTINGS = {"plots": False, "max_test_images": 32}
QUICK = {"image_size": 28, "stem_stride": 2, "batch_size": 64, "min_steps": 1}
"""For fashion-mnist: a few minutes instead of an hour on two cores."""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.label_errors", description=__doc__)
    add = parser.add_argument
    add("folder", help="FOLDER/CLASS/*.jpg, or fashion-mnist: images from this package")
    add("--images", type=int, default=2000, help="of fashion-mnist (default: 2000)")
    add("--wrong", type=float, default=0.05, help="fraction of the labels to change (default: 0.05)")
    add("--folds", type=int, default=3, help="networks to train, each without one part (default: 3)")
    add("--recipe", help="a name or a TOML file (default: minute for fashion-mnist, else images)")
    add("--epochs", type=float, help="default: 6 for fashion-mnist, else chosen from the folder")
    add("--seed", type=int, default=0, help="which labels change and which images are in a fold (default: 0)")
    add("--work", type=Path, help="folder to keep the runs, out_of_fold.csv and suspects in (default: a temporary one)")
    arguments = parser.parse_args(words)
    if not 0 < arguments.wrong < 1 or arguments.folds < 2:
        parser.error("--wrong must be between 0 and 1, --folds 2 or more")
    return arguments


def link(images: list[tuple[str, Path]], folder: Path) -> None:
    """One link for each image, in the folder of its class."""
    for name, path in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path.resolve())


def write_fashion_mnist(folder: Path, count: int) -> None:
    """The first images of the training split that comes with the package, as PNG files."""
    dataset = googlenet.load_dataset("fashion-mnist", "bundled")
    images, labels = dataset.train.images[:count], dataset.train.labels[:count].tolist()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / dataset.classes[label].replace("/", "-") / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)


def change_labels(folder: Path, noisy: Path, fraction: float, rng: random.Random) -> set[str]:
    """Link all images of a folder in another one, some of them in a wrong class. Returns the new names of those."""
    images = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    classes = sorted({path.relative_to(folder).parts[0] for path in images})
    wrong = set(rng.sample(range(len(images)), round(fraction * len(images))))
    links, changed = [], set()
    for number, path in enumerate(images):
        label = path.relative_to(folder).parts[0]
        if number in wrong:
            label = rng.choice([name for name in classes if name != label])
            changed.add(f"{label}/{number:06}{path.suffix}")
        links.append((f"{label}/{number:06}{path.suffix}", path))
    link(links, noisy)
    return changed


def predict_out_of_fold(noisy: Path, work: Path, arguments: argparse.Namespace) -> Path:
    """Cross-validate: a table with a prediction for each image by a network that was not trained on it."""
    is_known = arguments.folder == "fashion-mnist"
    settings: dict[str, Any] = {**SETTINGS, **({**QUICK, "epochs": 6} if is_known else {})}
    settings |= {"epochs": arguments.epochs} if arguments.epochs else {}
    recipe = arguments.recipe or ("minute" if is_known else None)
    result = googlenet.cross_validate(
        recipe, data=noisy, folds=arguments.folds, output=work / "folds", seed=arguments.seed, **settings
    )
    if result.out_of_fold is None:
        sys.exit(130)
    return result.out_of_fold


def check(noisy: Path, predictions: Path, suspects: Path) -> list[str]:
    """Names of the likely label errors by `googlenet data check`, the most suspicious first."""
    command = ("data", "check", noisy, "--predictions", predictions, "--suspects", suspects)
    subprocess.run([sys.executable, "-m", "googlenet", *map(str, command)], check=False, stdout=subprocess.DEVNULL)
    with (suspects / "suspects.csv").open(newline="", encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file) if row["kind"] == "label"]


def score(ranked: list[str], changed: set[str], counts: list[int]) -> list[dict[str, Any]]:
    """Precision and recall of the first `counts` of the ranking."""
    rows = []
    for count in counts:
        hits = len(changed & set(ranked[:count]))
        rows.append({"first": count, "hits": hits, "precision": hits / max(count, 1), "recall": hits / len(changed)})
    return rows


def _highest(row: dict[str, str]) -> float:
    return max(float(value) for name, value in row.items() if name.startswith("probability:"))


def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        if work.exists() and any(work.iterdir()):
            sys.exit(f"{work} is not empty; use another --work")
        folder = Path(arguments.folder)
        if arguments.folder == "fashion-mnist":
            write_fashion_mnist(folder := work / "images", arguments.images)
        noisy = work / "noisy"
        changed = change_labels(folder, noisy, arguments.wrong, rng)
        predictions = predict_out_of_fold(noisy, work, arguments)
        with predictions.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        agreement = sum(float(row[f"probability:{row['class']}"]) == _highest(row) for row in rows) / len(rows)
        ranked = check(noisy, predictions, work / "suspects")
        report = {
            "images": len(rows), "changed_labels": len(changed), "agreement_with_labels": agreement,
            "suspects": len(ranked), "ranking": score(ranked, changed, sorted({len(changed), len(ranked)})),
        }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
