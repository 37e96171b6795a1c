"""googlenet weights and push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from googlenet.cli import options
from googlenet.console import on_stderr

weights_app = App(name="weights", help="Published weights: list, fetch.")
options.app.command(weights_app)


@weights_app.command(name="list")
def weights_list(*, json: options.Json = False) -> int:
    """List the weights known by name: source, license, accuracy, size, and the copy in the cache."""
    from googlenet.weights.catalog import CATALOG

    if json:
        options.print_json([entry.to_dict() for entry in CATALOG.values()])
        return 0
    for entry in CATALOG.values():
        cached = entry.path if entry.path.exists() else f"not yet; googlenet weights fetch {entry.name}"
        print(f"{entry.name}: {entry.description}")
        print(f"  {entry.top1:.2%} top-1 on ImageNet, {entry.size / 1e6:.1f} MB, license {entry.license}")
        print(f"  source: {entry.source}")
        print(f"  cached: {cached}")
    return 0


@weights_app.command(name="fetch")
def weights_fetch(
    name: Annotated[str, Parameter(help="imagenet, bvlc or hf:owner/name.")], *, json: options.Json = False
) -> int:
    """Download weights into the cache and verify them."""
    from googlenet.weights.load import fetch

    path = fetch(name)
    options.print_json({"name": name, "file": str(path)}) if json else print(path)
    return 0


@options.app.command
def push(
    model: Annotated[Path, Parameter(help="Run folder or model file.")],
    repository: Annotated[str, Parameter(help="Repository of the Hugging Face Hub, owner/name; made if it is new.")],
    /,
    *,
    private: Annotated[bool, Parameter(help="Only you can see the new repository.", negative="")] = False,
    license: Annotated[
        str | None, Parameter(help="License of the weights, as the Hub writes it: apache-2.0; default: not stated.")
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Print the model card, and upload nothing.", negative="")] = False,
    json: options.Json = False,
) -> int:
    """Upload a model to the Hugging Face Hub with a model card, for others to use as hf:owner/name.

    Uploads model.safetensors, README.md and, from a run folder, the plots without images of the data. The token is that
    of hf auth login or $HF_TOKEN. A README.md that is there already is replaced.
    """
    from googlenet.evaluation.card import package_model
    from googlenet.weights.hub import upload

    with on_stderr(), package_model(model, repository, license=license) as files:
        names, card = sorted(files), files["README.md"].read_text(encoding="utf-8")
        address = None if dry_run else upload(repository, files, private=private)
    if json:
        options.print_json({"repository": repository, "address": address, "files": names, "card": card})
    elif dry_run:
        print(card, end="")
    else:
        print(f"{address}: {', '.join(names)}")
        print(f"next: googlenet predict hf:{repository} IMAGE ...")
    return 0
