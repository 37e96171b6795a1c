from __future__ import annotations

import pytest
import torch

from googlenet.data.transforms import InputSpec, Window


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (90, 90), (64, 64)])
@pytest.mark.parametrize(("resize", "crop_pct"), [("stretch", 1.0), ("crop", 1.0), ("crop", 0.8)])
def test_the_window_is_what_is_left_to_see(height: int, width: int, resize: str, crop_pct: float) -> None:
    """Pixels that say which row and column they are in, prepared, still say so: the first and last are the window's."""
    spec = InputSpec(2, 64, (0.0, 0.0), (1.0, 1.0), resize=resize, crop_pct=crop_pct)  # type: ignore[arg-type]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    seen = 255 * spec.prepare(torch.stack((rows, columns)).to(torch.uint8)[None])[0]
    window = spec.window(height, width)
    first, last = seen[:, 0, 0], seen[:, -1, -1]
    assert first.tolist() == pytest.approx([window.top, window.left], abs=1.5)
    assert last.tolist() == pytest.approx([window.top + window.height - 1, window.left + window.width - 1], abs=1.5)


def test_a_picture_of_the_right_size_is_cut_like_any_other() -> None:
    """As torchvision evaluates: to 256 first, whatever the size was, then the middle 224."""
    spec = InputSpec(3, 224, (0.5,) * 3, (0.5,) * 3, resize="crop", crop_pct=0.875)
    assert spec.window(224, 224) == Window(14, 14, 196, 196)
    whole = InputSpec(3, 64, (0.5,) * 3, (0.5,) * 3, resize="crop", crop_pct=1.0)
    assert whole.window(64, 64) == Window(0, 0, 64, 64)
