from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from googlenet import UserError, create_model, summarize
from googlenet.explanation.draw import draw
from googlenet.model.architecture import TABLE_1, VARIANTS
from tests.networks import GOOGLENETS

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("variant", GOOGLENETS)
def test_every_block_and_branch_is_drawn(variant: str) -> None:
    shown = texts(draw(variant))
    kernel = VARIANTS[variant].third_branch_kernel
    for row in TABLE_1:
        assert f"inception {row.name}" in shown
        assert f"3×3 · {row.branch2[1]}" in shown
        assert f"{kernel}×{kernel} · {row.branch3[1]}" in shown
    assert shown.count("3×3 max pool") == len(TABLE_1)
    assert ("auxiliary head," in shown) == VARIANTS[variant].auxiliary
    assert ("local response normalization" in shown) == (variant == "paper")


@pytest.mark.parametrize("variant", GOOGLENETS)
@pytest.mark.parametrize("size", [(3, 224, 224), (1, 97, 161)])
def test_shapes_are_those_of_the_network(variant: str, size: tuple[int, int, int]) -> None:
    shown = texts(draw(variant, input_size=size, num_classes=7))
    rows = {row.name: row for row in summarize(create_model(variant, num_classes=7, in_channels=size[0]), size).rows}
    blocks = [f"inception{row.name}" for row in TABLE_1]
    for name in ("conv1", "maxpool1", "conv3", "maxpool2", "maxpool3", "maxpool4", *blocks):
        assert " × ".join(map(str, rows[name].output_shape[1:])) in shown
    assert "fully connected · 7" in shown


@pytest.mark.parametrize("variant", GOOGLENETS)
def test_everything_is_on_the_page_and_no_boxes_overlap(variant: str) -> None:
    root = ElementTree.fromstring(draw(variant))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = []
    for box in root.findall(f"{SVG}rect")[1:]:
        x, y, wide, high = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0 and x + wide <= width and y >= 0 and y + high <= height
        if high <= 30:  # all but the panels behind blocks
            boxes.append((x, y, x + wide, y + high))
    for number, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.attrib["x"]) < width and 0 < float(text.attrib["y"]) < height


def test_the_drawing_in_the_docs_is_up_to_date() -> None:
    drawing = Path(__file__).parents[2] / "docs" / "images" / "googlenet.svg"
    assert drawing.read_text(encoding="utf-8") == draw("paper")


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(UserError, match="5x5"):
        draw("torchvision", input_size=(3, 5, 5))
    with pytest.raises(UserError, match="v9"):
        draw("v9")
