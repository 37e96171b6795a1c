"""A network understood: counted, drawn, looked into, held beside others."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from googlenet.cli.app import (
    BatchSize,
    DataDir,
    Device,
    Json,
    JudgedData,
    JudgingPrecision,
    Output,
    SkipUnreadable,
    app,
    judged_data_shown,
    print_json,
    study_app,
)
from googlenet.errors import UserError
from googlenet.files import check_output, printable
from googlenet.network.architecture import TABLE_1, VARIANTS, Variant


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
    elif not Path(model).exists():
        raise UserError(f"there is no variant and no model file {model!r}; variants: {', '.join(VARIANTS)}")
    else:
        net = load(model)
        size = size or (net.info.input.channels, net.info.input.size, net.info.input.size)
    found = summarize(net, size, batch_size=batch_size)
    if json:
        print_json(found.to_dict())
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
            help=f"Whose maps show where ({TABLE_1[0].name} to {TABLE_1[-1].name}); left out: the last with 7x7 cells "
            "or more."
        ),
    ] = None,
    top: Annotated[int, Parameter(help="How many classes to show, the likeliest first.")] = 5,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """One picture of why: where the network looked, how sure it is, and each branch's share in every block."""
    from googlenet.artifact.model_file import load
    from googlenet.data.decode import decode_image
    from googlenet.insight.explain import MOST_PIXELS_A_SIDE
    from googlenet.insight.explain import explain as run_explanation
    from googlenet.insight.explanation_picture import draw_explanation
    from googlenet.machine import resolve_device

    target = output or Path(f"{picture.stem}-explained.png")
    if target.resolve() == picture.resolve():
        raise UserError(f"{target} is the picture itself; give --output another name")
    check_output(target, ".png")
    net = load(model, resolve_device(device))
    image = decode_image(picture, net.info.input.channels, at_most=MOST_PIXELS_A_SIDE)
    explanation = run_explanation(net, image, class_name=class_, block=block)
    draw_explanation(explanation, target, top=top, name=picture.name)
    if json:
        print_json({"file": str(picture), "picture": str(target), **explanation.to_dict()})
        return 0
    ranked = list(zip(explanation.classes, explanation.probabilities, strict=True))[:top]
    print(f"{printable(picture)}  " + "  ".join(f"{name} {share:.1%}" for name, share in ranked))
    print(f"what speaks for {explanation.explained}: {target}")
    return 0


@app.command
def ablate(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    data: JudgedData = None,
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    limit: Annotated[
        int | None, Parameter(help="Test images to use, spread evenly over the test set; left out: all.")
    ] = None,
    output: Annotated[Path | None, Output, Parameter(help="PNG of the table to write; left out: none.")] = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    precision: JudgingPrecision = None,
    json: Json = False,
) -> int:
    """Silence each branch of each Inception block in turn: the accuracy on the test images lost without it."""
    from googlenet.artifact.model_file import load
    from googlenet.insight.ablate import ablate as run_ablation
    from googlenet.insight.ablate import draw_ablation

    if output is not None:
        check_output(output, ".png")
    net = load(model)
    dataset = judged_data_shown(net.info, data, data_dir, skip_unreadable=skip_unreadable, json=json)
    found = run_ablation(
        net,
        dataset.test,
        limit=limit,
        device=device,
        precision=precision or net.info.recipe.get("precision", "auto"),
        batch_size=batch_size,
    )
    if json:
        print_json({**found.to_dict(), "picture": str(output) if output else None})
    else:
        Console().print(found.to_table())
    if output is not None:
        draw_ablation(found, output)
        print(f"picture: {output}", file=sys.stderr if json else sys.stdout)
    return 0


@app.command
def compare(
    *networks: Annotated[str, Parameter(help="Which ones (bn, vgg-16, ...); left out: all.")],
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

    if plot is not None:
        check_output(plot, ".png")
    size = parse_input_size(input_size)
    entries = [count(contender, size, num_classes) for contender in contenders(networks)]
    with redirect_stdout(sys.stderr) if json else nullcontext():
        if latency:
            entries = measured(entries, size, num_classes, device, rounds=rounds)
        if train:
            entries = trained(
                entries, seconds, image_size=image_size, learning_rate=learning_rate, data_dir=data_dir, device=device
            )
    if json:
        print_json([entry.to_dict() for entry in entries])
    else:
        console = Console()
        (console if console.is_terminal else Console(width=200)).print(to_table(entries, size, num_classes))
    if plot is not None:  # last, since what it took so long to measure is not to be lost to a full disk
        plot_bubbles(entries, plot)
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
    check_output(target, ".svg")
    write_drawing(variant, target, input_size=parse_input_size(input_size), num_classes=num_classes)
    if json:
        print_json({"variant": variant, "drawing": str(target)})
    else:
        print(target)
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
        print_json({"report": str(report), **found.to_dict()})
    else:
        print(f"report: {report}")
    return 0
