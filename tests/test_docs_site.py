"""The hooks of the documentation site. `make docs` builds all of it, strictly."""

from __future__ import annotations

import pytest

import googlenet

docs_site = pytest.importorskip("scripts.docs_site", reason="needs mkdocs")

REPOSITORY = "https://git.example/googlenet"


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("runs.md", "[a](images.md#folders)", "[a](images.md#folders)"),
        ("reference/python.md", "[a](../images.md)", "[a](../images.md)"),
        ("runs.md", "[a](../CHANGELOG.md)", "[a](project/changelog.md)"),
        ("project/contributing.md", "[a](docs/runs.md)", "[a](../runs.md)"),
        ("project/contributing.md", "[a](README.md)", "[a](../index.md)"),
        ("project/examples.md", "[a](../docs/web.md#x)", "[a](../web.md#x)"),
        ("runs.md", "[a](https://example.com/x.md)", "[a](https://example.com/x.md)"),
        ("runs.md", "![a](images/web.png)", "![a](images/web.png)"),
        ("runs.md", "[a](../examples/predict.py)", f"[a]({REPOSITORY}/blob/main/examples/predict.py)"),
        ("runs.md", "```\n[a](../CHANGELOG.md)\n```", "```\n[a](../CHANGELOG.md)\n```"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(page: str, link: str, expected: str) -> None:
    assert docs_site.with_links_of_site(link, page, REPOSITORY) == expected


def test_without_a_repository_a_file_is_named_by_its_path() -> None:
    assert docs_site.with_links_of_site("[a](../examples/predict.py)", "runs.md", None) == "a (`examples/predict.py`)"
    assert (
        docs_site.with_links_of_site("[predict.py](../examples/predict.py)", "runs.md", "") == "`examples/predict.py`"
    )


def test_the_python_reference_has_every_public_name() -> None:
    listed = {line.rpartition(".")[2] for line in docs_site.python_reference().splitlines() if line.startswith(":::")}
    assert listed == set(googlenet.__all__) - {"__version__"}
