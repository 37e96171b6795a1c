"""googlenet summary, explain, ablate and draw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import on_stderr
from googlenet.errors import UserError, check_counts
from googlenet.files import check_output, printable
from googlenet.model.architecture import VARIANTS, Variant


@options.app.command
def summary(
    model: Annotated[str, Parameter(help=f"A variant ({', '.join(VARIANTS)}), a model file or a run folder.")] = "bn",
    *,
    input_size: Annotated[
        str | None,
        Parameter(help="C,H,W; default: 3,224,224 for a variant (v3, v4: 3,299,299), else that of the model file."),
    ] = None,
    num_classes: Annotated[int, Parameter(help="Number of classes, for a variant.")] = 1000,
    batch_size: options.BatchSize = 1,
    depth: Annotated[
        int, Parameter(help="1: blocks; 2: their branches; 3: the layers of the branches; 4: every operation.")
    ] = 2,
    json: options.Json = False,
) -> int:
    """List every layer: output shape, parameters, multiply-adds and activation memory."""
    from googlenet.console import print_table
    from googlenet.explanation.summary import parse_input_size, summarize

    size = parse_input_size(input_size) if input_size else None
    if model in VARIANTS:
        from googlenet.weights.create import create_model

        side = VARIANTS[model].usual_size
        size = size or (3, side, side)
        net = create_model(model, in_channels=size[0], num_classes=num_classes)
    else:
        from googlenet.weights.load import NAMES, is_named, load

        if not (is_named(model) or Path(model).exists()):
            raise UserError(
                f"{model} is neither a model nor a variant; variants and names: {', '.join((*VARIANTS, *NAMES))}"
            )
        net = load(model)
        size = size or (net.info.input.channels, net.info.input.size, net.info.input.size)
    result = summarize(net, size, batch_size=batch_size)
    options.print_json(result.to_dict()) if json else print_table(result.to_table(depth))
    return 0


@options.app.command
def explain(
    model: options.Model,
    image: Annotated[Path, Parameter(help="Image file.")],
    /,
    *,
    output: Annotated[
        Path | None,
        options.Output,
        Parameter(help="PNG to write; default: the image's name with -explained.png, here."),
    ] = None,
    class_: Annotated[
        str | None, Parameter(name="--class", help="The class to explain; default: the most likely one.")
    ] = None,
    method: Annotated[
        Literal["masked-gradients", "occlusion", "grad-cam"],
        Parameter(help="How to compute the heat map; docs/explanations.md compares them."),
    ] = "masked-gradients",
    block: Annotated[
        str | None,
        Parameter(help="Inception block for grad-cam, like 4e; default: the last with maps of at least 7x7 cells."),
    ] = None,
    top: Annotated[int, Parameter(help="Number of classes to show, the most likely first.")] = 5,
    device: options.Device = "auto",
    json: options.Json = False,
) -> int:
    """Explain a prediction in one plot: a heat map, probabilities, and the share of each branch."""
    from googlenet.explanation.explain import draw_explanation, explain as explain_image, trust_line
    from googlenet.weights.load import load

    check_counts(top=top)
    options.check_order("explain", model, [image])
    plot = output or Path(f"{image.stem}-explained.png")
    if plot.resolve() == image.resolve():
        raise UserError(f"{plot} is the image itself: name another file with --output")
    check_output(plot, ".png")
    explanation = explain_image(load(model, device), image, class_name=class_, method=method, block=block)
    draw_explanation(explanation, plot, top=top, name=image.name)
    if json:
        options.print_json({"file": str(image), "plot": str(plot), **explanation.to_dict()})
        return 0
    most_likely = zip(explanation.classes[:top], explanation.probabilities, strict=False)
    mark = "none of these? " if explanation.known is False else ""
    print(f"{printable(image)}  {mark}" + "  ".join(f"{name} {probability:.1%}" for name, probability in most_likely))
    print(f"evidence for {explanation.explained}: {plot}")
    print(trust_line(explanation.trust))
    return 0


@options.app.command
def ablate(
    model: options.Model,
    *,
    data: options.EvalData = None,
    data_dir: options.DataDir = None,
    skip_unreadable: options.SkipUnreadable = False,
    max_images: Annotated[
        int | None, Parameter(help="Number of test images to use, spread evenly over the test split; default: all.")
    ] = None,
    output: Annotated[
        Path | None, options.Output, Parameter(help="PNG with the table to write; default: none.")
    ] = None,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    precision: options.EvalPrecision = None,
    json: options.Json = False,
) -> int:
    """Measure how much test accuracy is lost without each branch of each Inception block."""
    from googlenet.console import log, print_table
    from googlenet.explanation.ablation import ablate as ablate_network, draw_ablation

    if output is not None:
        check_output(output, ".png")
    with on_stderr(json):
        ablation = ablate_network(
            model, data, data_dir=data_dir, skip_unreadable=skip_unreadable, max_images=max_images, device=device,
            precision=precision, batch_size=batch_size,
        )  # fmt: skip
        if json:
            options.print_json({**ablation.to_dict(), "plot": str(output) if output else None})
        else:
            print_table(ablation.to_table())
        if output is not None:
            draw_ablation(ablation, output)
            log.info("plot: %s", output)
    return 0


@options.app.command
def draw(
    variant: Annotated[Variant, Parameter(help="Which GoogLeNet, or its successor v2, v3 or v4.")] = "bn",
    *,
    output: Annotated[
        Path | None, options.Output, Parameter(help="SVG to write; default: googlenet-VARIANT.svg, here.")
    ] = None,
    input_size: Annotated[str | None, Parameter(help="C,H,W; default: 3,224,224, or 3,299,299 for v3 and v4.")] = None,
    num_classes: Annotated[int, Parameter(help="Number of classes.")] = 1000,
    json: options.Json = False,
) -> int:
    """Draw a variant on one page, in the style of the paper's figure 3: every branch, every shape."""
    from googlenet.explanation.draw import draw as draw_variant
    from googlenet.explanation.summary import parse_input_size
    from googlenet.files import write_text

    drawing = output or Path(f"googlenet-{variant}.svg")
    check_output(drawing, ".svg")
    size = parse_input_size(input_size) if input_size else None
    write_text(drawing, draw_variant(variant, input_size=size, num_classes=num_classes))
    options.print_json({"variant": variant, "drawing": str(drawing)}) if json else print(drawing)
    return 0
