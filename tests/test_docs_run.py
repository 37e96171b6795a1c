"""What the documentation shows runs: every block of Python, every error message, and the commands that are quick."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import googlenet
from googlenet import cli
from tests.conftest import bundled, write_photos
from tests.networks import with_info
from tests.pages import DOCS, ROOT, blocks_of, name_of

PARSED_ONLY = {
    "ablate": "as evaluate, 37 times; tests/explanation",
    "demo": "serves until it is stopped; tests/inference/test_demo.py",
    "embed": "has an image of another class to compare with; tests/inference/test_embed.py",
    "evaluate": "takes seconds; tests/evaluation",
    "explain": "takes seconds; tests/explanation",
    "export": "takes seconds for each format; tests/inference",
    "import": "needs weights from elsewhere; tests/weights",
    "push": "uploads; tests/weights/test_hub.py",
    "report": "needs finished runs; tests/evaluation",
    "train": "takes minutes; tests/training",
    "dream": "takes a minute; tests/explanation/test_dream.py",
    "visualize": "takes a minute; tests/explanation/test_visualize.py",
    "data fetch": "downloads; tests/data",
    "data pack": "writes the folder once; tests/data/test_shards.py",
    "data show": "takes seconds; tests/data",
    "weights fetch": "downloads; tests/weights",
}
"""Commands that are too slow for every page: `test_docs.py` parses them, and the tests named here run them."""
QUICKER = {
    "num_workers=4": "num_workers=0",
    "max_steps=200": "max_steps=1",
    "max_test_images=1000": "max_test_images=8",
}
NAMED_WEIGHTS = {"imagenet", "bvlc"}  # would be downloaded
EXECUTED = {"data cache", "data check", "data list", "draw", "predict", "summary", "weights list"}


ENGLISH = [page for page in DOCS if ".zh-CN." not in page.name]  # `test_docs.py` compares the translations


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: photos/, images/, boot.png and a model in runs/photos."""
    folder = tmp_path_factory.mktemp("docs")
    write_photos(folder / "photos", of_each=6)
    write_photos(folder / "with-broken", of_each=2)
    (folder / "with-broken" / "boot" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    for name in ("images", "empty"):
        (folder / name).mkdir()
    images = bundled("t10k-images-idx3-ubyte")
    for name, number in (("boot.png", 0), ("shirt.png", 1), ("images/1.png", 2), ("images/2.png", 3)):
        Image.fromarray(images[number]).save(folder / name)
    (folder / "list-of-files.txt").write_text("images/1.png\n")
    torch.manual_seed(0)
    net = with_info(googlenet.create_model("bn", num_classes=2, in_channels=1), ("boot", "trouser"), 28)
    (folder / "runs" / "photos").mkdir(parents=True)
    googlenet.save(net, net.info, folder / "runs" / "photos" / "model.safetensors")
    return folder


@pytest.fixture
def here(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_data: Path) -> Iterator[Path]:
    """An empty folder with the workspace in it, so that no page finds what another page has written."""
    for path in workspace.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger("googlenet").level
    yield tmp_path
    logging.getLogger("googlenet").setLevel(level)


def _run(line: str) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    words = shlex.split(line, comments=True)[1:]
    stdin = None
    if "<" in words:
        words, stdin = words[: words.index("<")], words[words.index("<") + 1]
    err = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()), redirect_stderr(err):
        if stdin is not None:
            patch.setattr("sys.stdin", StringIO(Path(stdin).read_text()))
        with pytest.raises(SystemExit) as exit:
            cli.main(words)
    return int(exit.value.code or 0), err.getvalue()


def _kind(line: str) -> str:
    words = shlex.split(line, comments=True)[1:3]
    return " ".join(words) if words[0] in ("data", "weights") else words[0]


def _lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks that call this program."""
    return [
        line
        for block in blocks_of(page)
        if block.language == "" and not block.reason
        for line in block.text.splitlines()
        if line.startswith("googlenet ")
    ]


QUICK = {
    line.partition("  #")[0].rstrip(): name_of(page)
    for page in ENGLISH
    for line in _lines(page)
    if _kind(line) in EXECUTED and not NAMED_WEIGHTS & set(line.split()) and "hf:" not in line and "parquet" not in line
}


@pytest.mark.parametrize("page", sorted(set(QUICK.values())))
def test_quick_commands_run(page: str, here: Path) -> None:
    for line in (line for line, where in QUICK.items() if where == page):
        code, err = _run(line)
        assert code == 0, (line, err)


def test_every_command_is_executed_or_has_a_reason() -> None:
    kinds = {_kind(line) for page in DOCS for line in _lines(page)}
    assert kinds <= EXECUTED | set(PARSED_ONLY), kinds - EXECUTED - set(PARSED_ONLY)
    for reason in PARSED_ONLY.values():
        for path in re.findall(r"tests/\S+", reason):
            assert (ROOT / path).exists(), reason


@pytest.mark.parametrize(
    "page",
    [page for page in ENGLISH if any(block.language == "python" and not block.reason for block in blocks_of(page))],
    ids=name_of,
)
def test_python_runs(page: Path, here: Path) -> None:
    scope: dict[str, object] = {
        "open_camera": lambda: iter([bundled("t10k-images-idx3-ubyte")[0]]),
        "googlenet": googlenet,
    }
    if page.name == "deployment.md":
        scope["predictor"] = googlenet.Predictor("runs/photos")
    for number, block in enumerate(blocks_of(page)):
        if block.language == "python" and not block.reason:
            code = block.text
            for shown, quick in QUICKER.items():
                code = code.replace(shown, quick)
            printed = StringIO()
            with redirect_stdout(printed):
                exec(compile(code, f"{page.name}, block {number}", "exec"), scope)
            if page.name == "exercises.md" and "googlenet.train(" not in code:
                for line in printed.getvalue().splitlines():
                    assert f"# {line}\n" in block.text


TRANSCRIPTS = [
    block.text.removeprefix("$ ").splitlines()
    for page in DOCS
    for block in blocks_of(page)
    if block.language == "console" and not block.reason
]


@pytest.mark.parametrize(("command", "message"), TRANSCRIPTS, ids=[command for command, _ in TRANSCRIPTS])
def test_messages_are_the_real_ones(command: str, message: str, here: Path) -> None:
    code, err = _run(command)
    pattern = ".*".join(map(re.escape, message.split("...")))
    assert code in (1, 2)
    assert re.fullmatch(pattern, err.rstrip("\n").splitlines()[-1]), err
