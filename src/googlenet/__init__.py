"""GoogLeNet (Inception v1) that you can train, understand and ship."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from googlenet.artifact.foreign import import_weights as import_weights
    from googlenet.artifact.model_file import load as load
    from googlenet.artifact.model_file import save as save
    from googlenet.data.loader import load_data as load_data
    from googlenet.deploy.predictor import Predictor as Predictor
    from googlenet.errors import RunError as RunError
    from googlenet.errors import UserError as UserError
    from googlenet.evaluation.evaluate import evaluate as evaluate
    from googlenet.insight.ablate import ablate as ablate
    from googlenet.insight.explain import explain as explain
    from googlenet.insight.summary import summarize as summarize
    from googlenet.network.architecture import Architecture as Architecture
    from googlenet.network.googlenet import GoogLeNet as GoogLeNet
    from googlenet.network.googlenet import GoogLeNetOutput as GoogLeNetOutput
    from googlenet.network.googlenet import create_model as create_model
    from googlenet.network.layers import Inception as Inception
    from googlenet.training.fit import train as train

__version__ = version("googlenet")

# Imported when first used, so that `import googlenet` and `googlenet --help` do not wait for torch.
_HOME = {
    "Architecture": "network.architecture",
    "GoogLeNet": "network.googlenet",
    "GoogLeNetOutput": "network.googlenet",
    "Inception": "network.layers",
    "Predictor": "deploy.predictor",
    "RunError": "errors",
    "UserError": "errors",
    "ablate": "insight.ablate",
    "create_model": "network.googlenet",
    "evaluate": "evaluation.evaluate",
    "explain": "insight.explain",
    "import_weights": "artifact.foreign",
    "load": "artifact.model_file",
    "load_data": "data.loader",
    "save": "artifact.model_file",
    "summarize": "insight.summary",
    "train": "training.fit",
}
__all__ = sorted((*_HOME, "__version__"))  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'googlenet' has no attribute {name!r}")
    value = getattr(import_module(f"googlenet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
