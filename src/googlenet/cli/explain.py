"""A network understood: counted, drawn, looked into, held beside others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from googlenet.cli.app import (
    BatchSize,
    DataDir,
    Device,
    Json,
    EvalData,
    EvalPrecision,
    Output,
    SkipUnreadable,
    app,
    load_eval_data_with_progress,
    print_json,
)
from googlenet.errors import UserError
from googlenet.files import check_output, printable
from googlenet.model.architecture import TABLE_1, VARIANTS, Variant


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
    from googlenet.explanation.summary import parse_input_size, summarize
    from googlenet.model.googlenet import create_model
    from googlenet.weights.model_file import load

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
    from googlenet.data.decode import decode_image
    from googlenet.device import resolve_device
    from googlenet.explanation.gradcam import MOST_PIXELS_A_SIDE, draw_explanation
    from googlenet.explanation.gradcam import explain as run_explanation
    from googlenet.weights.model_file import load

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
    data: EvalData = None,
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    limit: Annotated[
        int | None, Parameter(help="Test images to use, spread evenly over the test set; left out: all.")
    ] = None,
    output: Annotated[Path | None, Output, Parameter(help="PNG of the table to write; left out: none.")] = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    precision: EvalPrecision = None,
    json: Json = False,
) -> int:
    """Silence each branch of each Inception block in turn: the accuracy on the test images lost without it."""
    from googlenet.explanation.ablation import ablate as run_ablation
    from googlenet.explanation.ablation import draw_ablation
    from googlenet.weights.model_file import load

    if output is not None:
        check_output(output, ".png")
    net = load(model)
    dataset = load_eval_data_with_progress(net.info, data, data_dir, skip_unreadable=skip_unreadable, json=json)
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
    from googlenet.explanation.draw import write_drawing
    from googlenet.explanation.summary import parse_input_size

    target = output or Path(f"googlenet-{variant}.svg")
    check_output(target, ".svg")
    write_drawing(variant, target, input_size=parse_input_size(input_size), num_classes=num_classes)
    if json:
        print_json({"variant": variant, "drawing": str(target)})
    else:
        print(target)
    return 0
