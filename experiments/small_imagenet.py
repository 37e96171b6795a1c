"""The recipes for ImageNet at a small scale: 100 classes of drawings, 64x64, a few epochs. Does the loss fall, and what
do more crops gain over one?

The classes are the 100 folders of openclipart with the most images, for example `animals-birds` and `food-fruit`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

import googlenet

OPENCLIPART = Path("/usr/share/openclipart/png")  # Debian package openclipart-png
CLASSES, MOST = 100, 40  # the largest folders, and images of each
MAX_BYTES = 200_000  # a few of its images have 100 million pixels
SIZE = 64
SHORTER_SIDE = 104  # of the images that are written: 144 crops need 352 / 224 of the size
# The rate of imagenet is for batches of 1,024; the other two keep theirs, as they take hundreds of steps, not a million
RATES = {"imagenet": 0.5 * 16 / 1024, "imagenet-paper": 0.01, "paper": 0.01}
SETTINGS: dict[str, Any] = {"image_size": SIZE, "batch_size": 16, "ema_decay": 0.98, "plots": False}
SETTINGS |= {"max_test_images": 100}  # while it trains; the table has all of them


def write_images(folder: Path, root: Path = OPENCLIPART, classes: int = CLASSES, most: int = MOST) -> None:
    """Write `folder/{train,val}/CLASS/*.png`: every fifth image is for the test. No content is used twice."""
    found: dict[Path, list[Path]] = {}
    known: set[bytes] = set()
    for path in sorted(root.rglob("*.png")):
        if path.stat().st_size <= MAX_BYTES and (digest := sha256(path.read_bytes()).digest()) not in known:
            known.add(digest)
            found.setdefault(path.parent, []).append(path)
    for source in sorted(found, key=lambda source: (-len(found[source]), source))[:classes]:
        files = found[source]
        count = min(most, len(files))
        for number in range(count):
            path = files[number * len(files) // count]
            name = "-".join(source.relative_to(root).parts)
            target = folder / ("val" if number % 5 == 4 else "train") / name / f"{number:03}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                rgba = image.convert("RGBA")
            scale = SHORTER_SIDE / min(rgba.size)
            size = [max(SHORTER_SIDE, min(round(side * scale), 4 * SHORTER_SIDE)) for side in rgba.size]
            white = Image.new("RGBA", rgba.size, "white")
            Image.alpha_composite(white, rgba).convert("RGB").resize((size[0], size[1])).save(target)


def run(
    name: str, data: Path, folder: Path, epochs: float, crops: Sequence[Any], test_images: int = 10**6, **settings: Any
) -> dict[str, Any]:
    """Train one recipe, unless that is done, and evaluate it with each number of crops on so many test images."""
    if not (folder / "evaluation.json").exists():
        changes = {**SETTINGS, "learning_rate": RATES[name], "epochs": epochs, **settings}
        googlenet.train(recipe=name, data=data, output=folder, resume=folder.exists(), **changes)
    net = googlenet.load(folder)
    size, resize = net.info.input.decoded_size, net.info.input.resize
    # On demand and not from a store: the crops are cut from the images themselves
    dataset = googlenet.load_dataset(
        data, size=size, resize=resize, splits=("test",), on_demand=True, use_store=False, classes=net.info.classes
    )
    split = dataset.test.spread(test_images)
    evaluations = {count: googlenet.evaluate(net, split, crops=count) for count in crops}
    first = evaluations[crops[0]]
    return {
        "recipe": name,
        "test_images": len(first.labels),
        "curve": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        "crops": {
            count: {
                "accuracy": evaluation.accuracy,
                "top_5": evaluation.top_k(5),
                "loss": evaluation.loss,
                "gained": int((evaluation.correct & ~first.correct).sum()),
                "lost": int((first.correct & ~evaluation.correct).sum()),
            }
            for count, evaluation in evaluations.items()
        },
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| recipe | crops | top 1, % | top 5, % | loss | images gained / lost |", "|---|---|---|---|---|---|"]
    for result in results:
        for count, row in result["crops"].items():
            shares = f"{100 * row['accuracy']:.1f} | {100 * row['top_5']:.1f} | {row['loss']:.3f}"
            lines.append(f"| `{result['recipe']}` | {count} | {shares} | {row['gained']} / {row['lost']} |")
    return "\n".join(lines)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """The loss of training, and of test images after each epoch."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, result in enumerate(results):
        for split, style in (("train", "-"), ("test", "--")):
            rows = [row for row in result["curve"] if row["split"] == split]
            axes.plot(
                [row["step"] for row in rows], [row["loss"] for row in rows], style, color=f"C{number}",
                label=f"{result['recipe']}, {split}", alpha=0.5 if split == "train" else 1,
            )  # fmt: skip
    axes.set(xlabel="step", ylabel="loss, nats")
    axes.legend()
    figure.savefig(path, dpi=120)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.small_imagenet", description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for images and runs; recipes that are finished there are kept")
    add("--recipes", nargs="+", default=list(RATES)[:2], choices=RATES, help="default: imagenet imagenet-paper")
    add("--epochs", type=float, default=2, help="default: 2")
    add("--crops", type=int, nargs="+", default=[1, 2, 10], choices=[1, 2, 10, 144], help="default: 1 2 10")
    add(
        "--test-images",
        type=int,
        default=10**6,
        help="that the table is of, the same share of each class (default: all)",
    )
    arguments = parser.parse_args(words)
    work, data = arguments.work, arguments.work / "data"
    if not data.exists():
        write_images(temporary := work / "data.tmp")
        temporary.rename(data)
    results = [
        run(name, data, work / name, arguments.epochs, arguments.crops, arguments.test_images)
        for name in arguments.recipes
    ]
    (work / "results.json").write_text(json.dumps(results, indent=1))
    draw(results, work / "curves.png")
    print(table(results))


if __name__ == "__main__":
    main()
