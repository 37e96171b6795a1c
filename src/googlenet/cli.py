"""The command `googlenet`: one function a command; each parses, calls, prints.

What a command needs is imported inside it, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import dataclasses
import json as json_format
import os
import shutil
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from googlenet.bench import USUAL, Measure
from googlenet.errors import RunError, UserError
from googlenet.network.architecture import TABLE_1, VARIANTS, Variant
from googlenet.recipe import Recipe, recipe_names

Output = Parameter(name=["--output", "-o"])
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Parameter(help="Of the computation; auto: bf16 where the device has it."),
]
BatchSize = Annotated[int, Parameter(help="Images a batch.")]
DataDir = Annotated[str | None, Parameter(help="Folder with the data set's files, or bundled; left out: searched for.")]
Json = Annotated[bool, Parameter(help="Print JSON.", negative="")]

# Every setting of a recipe is an option of `train`; those that are not given are not in the dictionary.
Settings = TypedDict(  # type: ignore[misc]
    "Settings",
    {
        name: Annotated[field.annotation, Parameter(help=f"{field.description}.")]
        for name, field in Recipe.model_fields.items()
    },
    total=False,
)

app = App(
    name="googlenet",
    help="GoogLeNet (Inception v1): train it, see inside it, use it.",
    help_format="plaintext",
)
data_app = App(name="data", help="The data sets that training knows by name.")
app.command(data_app)
study_app = App(name="study", help="Questions answered by many small runs.")
app.command(study_app)


@app.command
def train(
    *,
    recipe: Annotated[
        str | None,
        Parameter(help=f"{', '.join(recipe_names())}, or a FILE.toml; left out: fast, for a folder pictures."),
    ] = None,
    output: Annotated[Path | None, Output, Parameter(help="Run folder; left out: a new one in runs/.")] = None,
    resume: Annotated[
        bool, Parameter(help="Go on with the run in --output from its last checkpoint.", negative="")
    ] = False,
    find_learning_rate: Annotated[
        bool,
        Parameter(help="Do not train: draw the loss over a growing learning rate, and suggest one.", negative=""),
    ] = False,
    json: Json = False,
    settings: Annotated[Settings, Parameter(name="*")] = None,  # type: ignore[assignment]
) -> int:
    """Train a network. Every setting of a recipe can be given by its name; those left out are the recipe's."""
    if find_learning_rate:
        return _find_learning_rate(recipe, output or Path("learning_rate.png"), dict(settings or {}), json=json)
    from googlenet.training.fit import train as run_training

    with redirect_stdout(sys.stderr) if json else nullcontext():
        result = run_training(recipe, output=output, resume=resume, **(settings or {}))
    if os.environ.get("RANK", "0") != "0":
        pass  # of several processes, the first speaks
    elif json:
        _print_json({**dataclasses.asdict(result), "folder": str(result.folder), "model": str(result.model)})
    elif result.interrupted:
        print(f"stopped. To go on: {_command()} train --resume --output '{result.folder}'")
    else:
        print(f"test accuracy {result.metrics['test']['accuracy']:.2%} after {result.seconds:.0f} s of training")
        print(f"run folder: {result.folder}")
        print(f"next: {_command()} predict '{result.model}' PICTURE ...")
    return 130 if result.interrupted else 0


def _find_learning_rate(recipe: str | None, output: Path, settings: dict[str, Any], *, json: bool) -> int:
    from googlenet.training.rate_finder import find_learning_rate
    from googlenet.training.suggestion import resolve_recipe

    resolved, _, reason = resolve_recipe(recipe, settings)
    with redirect_stdout(sys.stderr):
        print(reason, end="\n" if reason else "")
        search = find_learning_rate(resolved, output)
    if json:
        _print_json({"picture": str(output), **search.to_dict()})
    else:
        print(f"suggested: --learning-rate {search.suggestion:g}; the curve: {output}")
    return 0


@app.command
def evaluate(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    data: Annotated[str | None, Parameter(help="Name of a data set; left out: the one trained on.")] = None,
    data_dir: DataDir = None,
    output: Annotated[
        Path | None, Output, Parameter(help="Folder for the report; left out: evaluation/ beside the model.")
    ] = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        Parameter(help="Of the computation; left out: as it was trained."),
    ] = None,
    confidence: Annotated[
        float, Parameter(help="Also count what is answered, and rightly, at this probability and above, 0 to 1.")
    ] = 0.0,
    json: Json = False,
) -> int:
    """Judge a model on a data set's test images: figures, confusion matrix, worst mistakes, calibration."""
    from googlenet.artifact.model_file import load
    from googlenet.evaluation.evaluate import evaluate as run_evaluation
    from googlenet.evaluation.judged_data import judged_data
    from googlenet.evaluation.report import evaluation_table, write_report

    net = load(model)
    dataset = judged_data(net.info, data, data_dir)
    evaluation = run_evaluation(
        net,
        dataset.test,
        net.info.input,
        net.info.classes,
        device=device,
        precision=precision or net.info.recipe.get("precision", "auto"),
        batch_size=batch_size,
        temperature=net.info.temperature,
        confidence=confidence,
    )
    folder = output or (model if model.is_dir() else model.parent) / "evaluation"
    write_report(evaluation, dataset.test, folder)
    if json:
        _print_json(evaluation.to_dict())
    else:
        Console().print(evaluation_table(evaluation))
        print(f"report: {folder}")
    return 0


@app.command
def predict(
    model: Annotated[Path, Parameter(help="Model file, run folder, or a file that export wrote.")],
    pictures: Annotated[
        list[Path], Parameter(help="Picture files, folders of them, or - for a list on standard input.", negative="")
    ],
    /,
    *,
    top: Annotated[int, Parameter(help="How many classes to name, the likeliest first.")] = 3,
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="How to print the answers.")] = "table",
    json: Annotated[bool, Parameter(help="The same as --format json.", negative="")] = False,
    output: Annotated[
        Path | None, Output, Parameter(help="File to write the answers to: .csv, .jsonl or .parquet.")
    ] = None,
    resume: Annotated[
        bool, Parameter(help="Go on with --output: files that it has are left out.", negative="")
    ] = False,
    engine: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"],
        Parameter(help="What computes; auto: torch for a model file, the fastest installed for an exported one."),
    ] = "auto",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    precision: Precision = "auto",
    confidence: Annotated[
        float, Parameter(help="A picture whose likeliest class is less probable than this, 0 to 1, is named unsure.")
    ] = 0.0,
) -> int:
    """Classify picture files. One that cannot be read is named, the others are answered, and the exit code is 1."""
    from googlenet.deploy.answers import print_answers, write_answers
    from googlenet.deploy.predictor import Predictor

    if resume and output is None:
        raise UserError("--resume goes on with an output: name it with --output")
    predictor = Predictor(model, device=device, precision=precision, engine=engine)
    settings: dict[str, Any] = {"top": top, "batch_size": batch_size, "confidence": confidence}
    if output is not None:
        answered, failed = write_answers(predictor, pictures, output, resume=resume, **settings)
        summary = {"output": str(output), "answered": answered, "failed": failed}
        if json:
            _print_json(summary)
        else:
            print(f"{answered:,} answered, {failed:,} could not be read: {output}")
    else:
        failed = print_answers(predictor, pictures, "json" if json else format, **settings)
    return 1 if failed else 0


@app.command
def export(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    to: Annotated[Literal["onnx", "openvino", "torch-export"], Parameter(help="Format of the file.")],
    output: Annotated[Path | None, Output, Parameter(help="File to write; left out: beside the model.")] = None,
    int8: Annotated[bool, Parameter(help="Convolutions in integers of 8 bits.", negative="")] = False,
    with_preprocessing: Annotated[
        bool, Parameter(help="The file takes uint8 pictures of any size and gives probabilities.", negative="")
    ] = False,
    calibration: Annotated[
        Path | None, Parameter(help="Folder of pictures to calibrate and verify with; left out: the training data.")
    ] = None,
    data_dir: DataDir = None,
    most_lost: Annotated[float, Parameter(help="Percentage points of accuracy that int8 may cost.")] = 0.5,
    force: Annotated[bool, Parameter(help="Keep an int8 file that costs more.", negative="")] = False,
    json: Json = False,
) -> int:
    """Write a model for other programs, held against PyTorch on real pictures before it is kept."""
    from googlenet.deploy.export import export as run_export

    with redirect_stdout(sys.stderr):
        exported = run_export(
            model,
            to,
            output,
            int8=int8,
            preprocessing=with_preprocessing,
            calibration=calibration,
            data_dir=data_dir,
            most_lost=most_lost,
            force=force,
        )
    if json:
        _print_json(exported.to_dict())
        return 0
    print(f"{exported.file}: {exported.megabytes:.1f} MB")
    print(
        f"{exported.images_judged:,} real pictures: the same class as PyTorch for {exported.agreement:.2%}, "
        f"probabilities within {exported.largest_difference:.1g}"
    )
    if exported.accuracy_before is not None:
        print(f"accuracy {exported.accuracy_before:.2%} in PyTorch, {exported.accuracy_after:.2%} in the file")
    return 0


@app.command
def summary(
    model: Annotated[str, Parameter(help=f"A variant ({', '.join(VARIANTS)}), a model file or a run folder.")] = "bn",
    *,
    input_size: Annotated[
        str | None, Parameter(help="C,H,W; left out: 3,224,224, or what the model file says.")
    ] = None,
    num_classes: Annotated[int, Parameter(help="Classes of a variant.")] = 1000,
    batch_size: BatchSize = 1,
    depth: Annotated[int, Parameter(help="1: blocks; 2: their branches; 3: layers in them; 4: every operation.")] = 2,
    json: Json = False,
) -> int:
    """Every layer's output shape, parameters, multiply-adds and activation memory, without computing."""
    from googlenet.artifact.model_file import load
    from googlenet.insight.summary import parse_input_size, summarize
    from googlenet.network.googlenet import create_model

    size = parse_input_size(input_size) if input_size else None
    if model in VARIANTS:
        size = size or (3, 224, 224)
        net = create_model(model, in_channels=size[0], num_classes=num_classes)
    else:
        net = load(model)
        size = size or (net.info.input.channels, net.info.input.size, net.info.input.size)
    found = summarize(net, size, batch_size=batch_size)
    if json:
        _print_json(found.to_dict())
    else:
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(found.to_table(depth))
    return 0


@app.command
def explain(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    picture: Annotated[Path, Parameter(help="Picture file.")],
    /,
    *,
    output: Annotated[
        Path | None, Output, Parameter(help="PNG to write; left out: PICTURE's name with -explained.png, here.")
    ] = None,
    class_: Annotated[
        str | None, Parameter(name="--class", help="What to look for in the picture; left out: the likeliest class.")
    ] = None,
    block: Annotated[
        str | None,
        Parameter(
            help=f"Whose maps show where ({TABLE_1[0].name} to {TABLE_1[-1].name}); left out: the last with 7x7 cells."
        ),
    ] = None,
    top: Annotated[int, Parameter(help="How many classes to show, the likeliest first.")] = 5,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """One picture of why: where the network looked, how sure it is, and each branch's share in every block."""
    from googlenet.artifact.model_file import load
    from googlenet.data.decode import decode_image
    from googlenet.insight.explain import explain as run_explanation
    from googlenet.insight.explanation_picture import draw_explanation
    from googlenet.machine import resolve_device

    target = output or Path(f"{picture.stem}-explained.png")
    if target.resolve() == picture.resolve():
        raise UserError(f"{target} is the picture itself; give --output another name")
    net = load(model, resolve_device(device))
    image = decode_image(picture, net.info.input.channels)
    explanation = run_explanation(net, image, class_name=class_, block=block)
    draw_explanation(explanation, target, top=top, name=picture.name)
    if json:
        _print_json({"file": str(picture), "picture": str(target), **explanation.to_dict()})
        return 0
    ranked = list(zip(explanation.classes, explanation.probabilities, strict=True))[:top]
    print(f"{picture}  " + "  ".join(f"{name} {share:.1%}" for name, share in ranked))
    print(f"what speaks for {explanation.explained}: {target}")
    return 0


@app.command
def ablate(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    data: Annotated[str | None, Parameter(help="Name of a data set; left out: the one trained on.")] = None,
    data_dir: DataDir = None,
    limit: Annotated[
        int | None, Parameter(help="Test images to use, spread evenly over the test set; left out: all.")
    ] = None,
    output: Annotated[Path | None, Output, Parameter(help="PNG of the table to write; left out: none.")] = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        Parameter(help="Of the computation; left out: as it was trained."),
    ] = None,
    json: Json = False,
) -> int:
    """Silence each branch of each Inception block in turn: the accuracy on the test images lost without it."""
    from googlenet.artifact.model_file import load
    from googlenet.evaluation.judged_data import judged_data
    from googlenet.insight.ablate import ablate as run_ablation
    from googlenet.insight.ablate import draw_ablation

    net = load(model)
    found = run_ablation(
        net,
        judged_data(net.info, data, data_dir).test,
        limit=limit,
        device=device,
        precision=precision or net.info.recipe.get("precision", "auto"),
        batch_size=batch_size,
    )
    if output is not None:
        draw_ablation(found, output)
    if json:
        _print_json({**found.to_dict(), "picture": str(output) if output else None})
        return 0
    Console().print(found.to_table())
    if output is not None:
        print(f"picture: {output}")
    return 0


@app.command
def compare(
    networks: Annotated[
        list[str] | None, Parameter(help="Which ones (bn, vgg-16, ...); left out: all.", negative="")
    ] = None,
    /,
    *,
    latency: Annotated[bool, Parameter(help="Also measure speed and memory here.", negative="")] = False,
    train: Annotated[
        bool, Parameter(help="Also train each on Fashion-MNIST, all for the same time.", negative="")
    ] = False,
    input_size: Annotated[str, Parameter(help="C,H,W of what is counted and timed.")] = "3,224,224",
    num_classes: Annotated[int, Parameter(help="Classes of what is counted and timed.")] = 1000,
    rounds: Annotated[int, Parameter(help="Turns of each network with --latency; the median is given.")] = 9,
    seconds: Annotated[float, Parameter(help="Seconds that each network trains with --train.")] = 60,
    image_size: Annotated[int, Parameter(help="Height and width of the images to train on, pixels.")] = 64,
    learning_rate: Annotated[
        float | None, Parameter(help="Highest one of the schedule; left out: each network's best.")
    ] = None,
    plot: Annotated[Path | None, Parameter(help="PNG to draw: accuracy, compute and parameters.")] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """GoogLeNet beside AlexNet, NiN, VGG, ResNet-18, SqueezeNet and MobileNetV2: what each costs and what it brings."""
    from googlenet.insight.bubbles import plot_bubbles
    from googlenet.insight.compare import count, measured, to_table, trained
    from googlenet.insight.contenders import contenders
    from googlenet.insight.summary import parse_input_size

    size = parse_input_size(input_size)
    entries = [count(contender, size, num_classes) for contender in contenders(networks or [])]
    with redirect_stdout(sys.stderr) if json else nullcontext():
        if latency:
            entries = measured(entries, size, num_classes, device, rounds=rounds)
        if train:
            entries = trained(
                entries, seconds, image_size=image_size, learning_rate=learning_rate, data_dir=data_dir, device=device
            )
    if plot is not None:
        plot_bubbles(entries, plot)
    if json:
        _print_json([entry.to_dict() for entry in entries])
    else:
        console = Console()
        (console if console.is_terminal else Console(width=200)).print(to_table(entries, size, num_classes))
    return 0


@app.command
def draw(
    variant: Annotated[Variant, Parameter(help="Which GoogLeNet.")] = "bn",
    *,
    output: Annotated[
        Path | None, Output, Parameter(help="SVG to write; left out: googlenet-VARIANT.svg here.")
    ] = None,
    input_size: Annotated[str, Parameter(help="C,H,W.")] = "3,224,224",
    num_classes: Annotated[int, Parameter(help="Classes.")] = 1000,
    json: Json = False,
) -> int:
    """Draw a variant on one page, in the manner of the paper's figure 3: every branch, every shape."""
    from googlenet.insight.draw import write_drawing
    from googlenet.insight.summary import parse_input_size

    target = output or Path(f"googlenet-{variant}.svg")
    write_drawing(variant, target, input_size=parse_input_size(input_size), num_classes=num_classes)
    if json:
        _print_json({"variant": variant, "drawing": str(target)})
    else:
        print(target)
    return 0


@app.command
def bench(
    measures: Annotated[
        list[Measure] | None,
        Parameter(help="What to measure; left out: all but accuracy, which trains."),
    ] = None,
    /,
    *,
    rounds: Annotated[int, Parameter(help="Turns of each contender that count; the median is given.")] = 9,
    recipes: Annotated[str, Parameter(help="What accuracy trains: names or files, separated by commas.")] = "fast",
    seeds: Annotated[int, Parameter(help="How often accuracy trains each.")] = 3,
    output: Annotated[Path | None, Output, Parameter(help="JSON file to write.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Measure this machine: ours beside its peers, in turn in one process, each beside the machine's limit."""
    from googlenet.bench.measures import measure
    from googlenet.files import writing
    from googlenet.machine import resolve_device

    if rounds < 1 or seeds < 1:
        raise UserError(f"rounds and seeds are 1 or more, not {rounds} and {seeds}")
    console = Console(stderr=json)

    def save(found: dict[str, Any]) -> None:
        if output is not None:
            with writing(output) as temporary:
                temporary.write_text(json_format.dumps(found, indent=2) + "\n", encoding="utf-8")

    with redirect_stdout(sys.stderr) if json else nullcontext():
        found = measure(
            measures or USUAL,
            resolve_device(device),
            rounds=rounds,
            recipes=recipes.split(","),
            seeds=seeds,
            show=lambda table: console.print(table.to_rich(), ""),
            save=save,
        )
    if json:
        _print_json(found)
    return 0


@study_app.command(name="convergence")
def study_convergence(
    *,
    quick: Annotated[bool, Parameter(help="A grid of ten minutes on two cores.", negative="")] = False,
    output: Annotated[
        Path | None, Output, Parameter(help="Folder; left out: runs/convergence, or runs/convergence-quick.")
    ] = None,
    only: Annotated[
        str | None, Parameter(help="Factors (head) or configurations (pair=he+alexnet) to run, separated by commas.")
    ] = None,
    steps: Annotated[int | None, Parameter(help="Steps of each run.")] = None,
    seeds: Annotated[int | None, Parameter(help="Runs of each configuration at its best learning rate.")] = None,
    image_size: Annotated[int | None, Parameter(help="Height and width of the images, pixels.")] = None,
    learning_rates: Annotated[str | None, Parameter(help="Those tried, separated by commas.")] = None,
    workers: Annotated[int | None, Parameter(help="Runs side by side; left out: one for each core.")] = None,
    json: Json = False,
) -> int:
    """Why GoogLeNet converges slowly: the tutorial's network, one thing changed at a time. Goes on where it stopped."""
    from googlenet.insight.study.convergence import study
    from googlenet.insight.study.grid import scaled
    from googlenet.insight.study.report import write_report
    from googlenet.training.display import clock

    def progress(done: int, total: int, seconds_left: float | None, name: str) -> None:
        left = "" if seconds_left is None else f"  about {clock(seconds_left)} left"
        print(f"{done}/{total}  {name}{left}", flush=True)

    scale = scaled(quick=quick, steps=steps, seeds=seeds, image_size=image_size, rates=learning_rates)
    folder = output or Path("runs") / ("convergence-quick" if quick else "convergence")
    words = only.split(",") if only else ()
    with redirect_stdout(sys.stderr) if json else nullcontext():
        found = study(folder, scale, only=words, quick=quick, workers=workers, progress=progress)
    report = write_report(found, folder)
    if json:
        _print_json({"report": str(report), **found.to_dict()})
    else:
        print(f"report: {report}")
    return 0


@app.command(name="import")
def import_(
    file: Annotated[
        Path, Parameter(help="Weights saved from the tutorial's code, torchvision's googlenet or this package's.")
    ],
    *,
    output: Annotated[
        Path | None, Output, Parameter(help="Model file to write; left out: FILE's name with .safetensors.")
    ] = None,
    variant: Annotated[Variant | None, Parameter(help="What the weights are of, where they do not show it.")] = None,
    classes: Annotated[Path | None, Parameter(help="Text file with the classes' names, one a line.")] = None,
    json: Json = False,
) -> int:
    """Make a model file of other people's weights."""
    from googlenet.artifact.foreign import import_file

    target, info = import_file(file, output, variant=variant, class_file=classes)
    if json:
        _print_json({"model": str(target), **json_format.loads(info.to_json())})
        return 0
    print(f"{target}: {info.architecture.variant}, {len(info.classes)} classes: {', '.join(info.classes[:3])}, ...")
    # Weights do not say how images are to be made ready for them, so what was taken for granted is said.
    taken = info.input
    print(f"input taken to be {taken.channels}x{taken.size}x{taken.size}, mean {taken.mean}, deviation {taken.std}")
    return 0


@data_app.command(name="list")
def data_list(*, json: Json = False) -> int:
    """The data sets known by name, and where on this machine they are."""
    from googlenet.data.catalog import CATALOG

    rows = [
        {"name": entry.name, "description": entry.description, "found": str(entry.find() or "")}
        for entry in CATALOG.values()
    ]
    if json:
        _print_json(rows)
    for row in [] if json else rows:
        print(f"{row['name']}: {row['description']}")
        print(f"  found: {row['found'] or 'not yet; googlenet data fetch ' + row['name']}")
    return 0


@data_app.command(name="fetch")
def data_fetch(
    name: Annotated[str, Parameter(help="Name of a data set.")] = "fashion-mnist", *, json: Json = False
) -> int:
    """Bring a data set into the cache folder, checked against its digests."""
    from googlenet.data.catalog import entry

    folder = str(entry(name).fetch())
    if json:
        _print_json({"name": name, "folder": folder})
    else:
        print(folder)
    return 0


@data_app.command(name="check")
def data_check(
    folder: Annotated[Path, Parameter(help="FOLDER/CLASS/*.jpg, or FOLDER/train/CLASS/*.jpg and so on.")],
    *,
    output: Annotated[Path | None, Output, Parameter(help="Report to write as JSON.")] = None,
    quarantine: Annotated[
        Path | None, Parameter(help="Folder to move files to that cannot be read; nothing is deleted.")
    ] = None,
    json: Json = False,
) -> int:
    """Read every picture of a folder to its end and say what is wrong. The exit code is 1 where something is left."""
    from googlenet.data.folder_check import check
    from googlenet.training.display import FileProgress

    with redirect_stdout(sys.stderr) if json else nullcontext(), FileProgress() as progress:
        found = check(folder, quarantine, progress.show)
    if output is not None:
        found.write(output)
    if json:
        _print_json(found.to_dict())
    else:
        print("\n".join(found.lines()))
    return 0 if found.is_clean else 1


@data_app.command(name="show")
def data_show(
    name: Annotated[str, Parameter(help="Name of a data set.")] = "fashion-mnist",
    *,
    output: Annotated[Path | None, Output, Parameter(help="Contact sheet to write; left out: NAME.png here.")] = None,
    data_dir: DataDir = None,
    count: Annotated[int, Parameter(help="Pictures on the sheet.")] = 80,
    seed: Annotated[int, Parameter(help="Which pictures.")] = 0,
    json: Json = False,
) -> int:
    """A contact sheet of training pictures with their labels, and the count of each class."""
    from googlenet.data.catalog import load_dataset
    from googlenet.evaluation.plots import plot_sample

    dataset = load_dataset(name, data_dir)
    sheet = output or Path(f"{name}.png")
    plot_sample(dataset, sheet, count=count, seed=seed)
    counts = dataset.class_counts()
    if json:
        _print_json({"sheet": str(sheet), **dataset.provenance(), "classes": counts})
        return 0
    if dataset.note:
        print(f"note: {dataset.note}")
    print(f"{dataset.name} from {dataset.source}")
    for label, row in counts.items():
        print(f"  {label:<12} {row['train']:>7,} training  {row['test']:>7,} test")
    print(f"contact sheet: {sheet}")
    return 0


def _command() -> str:
    """What to type for this command: its path, where it is not on PATH."""
    if shutil.which("googlenet"):
        return "googlenet"
    beside = Path(sys.executable).with_name("googlenet")
    inside = beside.is_relative_to(Path.cwd())
    return str(beside.relative_to(Path.cwd())) if inside else f"'{beside}'"


def _print_json(value: Any) -> None:
    print(json_format.dumps(value, indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 failed, 2 called wrongly, 130 stopped by Ctrl-C."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        return int(app(tokens, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except (CycloptsError, UserError) as error:
        code, message = 2, str(error)
    except RunError as error:
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code, message = 130, "stopped"
    except BrokenPipeError:  # whoever read our output has had enough
        sys.stderr.close()
        return 1
    print(f"googlenet: {' '.join(message.split())}", file=sys.stderr)
    return code
