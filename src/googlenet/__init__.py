"""GoogLeNet (Inception v1) that you can train, understand and ship."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from googlenet.data.dataset import (
        ImageDataset as ImageDataset,
        ImageSplit as ImageSplit,
        load_dataset as load_dataset,
    )
    from googlenet.data.loader import load_data as load_data
    from googlenet.data.transforms import InputSpec as InputSpec
    from googlenet.errors import RunError as RunError, UserError as UserError
    from googlenet.evaluation.metrics import Coverage as Coverage, Evaluation as Evaluation
    from googlenet.evaluation.report import evaluate as evaluate
    from googlenet.explanation.ablation import Ablation as Ablation, ablate as ablate
    from googlenet.explanation.gradcam import Explanation as Explanation, explain as explain
    from googlenet.explanation.summary import Summary as Summary, summarize as summarize
    from googlenet.inference.export import Exported as Exported, export as export
    from googlenet.inference.predictor import Prediction as Prediction, Predictor as Predictor
    from googlenet.model.architecture import Architecture as Architecture
    from googlenet.model.googlenet import (
        GoogLeNet as GoogLeNet,
        GoogLeNetOutput as GoogLeNetOutput,
        Inception as Inception,
        create_model as create_model,
    )
    from googlenet.recipe import Recipe as Recipe, load_recipe as load_recipe
    from googlenet.training.loop import TrainingResult as TrainingResult, train as train
    from googlenet.training.run_folder import RunFolder as RunFolder
    from googlenet.training.setup import Trainer as Trainer
    from googlenet.weights.convert import import_weights as import_weights
    from googlenet.weights.model_file import ModelInfo as ModelInfo, load as load, save as save

__version__ = version("googlenet")

# Imported when first used, so that `import googlenet` and `googlenet --help` do not wait for torch.
_MODULES = {
    "data.dataset": ("ImageDataset", "ImageSplit", "load_dataset"),
    "data.loader": ("load_data",),
    "data.transforms": ("InputSpec",),
    "errors": ("RunError", "UserError"),
    "evaluation.metrics": ("Coverage", "Evaluation"),
    "evaluation.report": ("evaluate",),
    "explanation.ablation": ("Ablation", "ablate"),
    "explanation.gradcam": ("Explanation", "explain"),
    "explanation.summary": ("Summary", "summarize"),
    "inference.export": ("Exported", "export"),
    "inference.predictor": ("Prediction", "Predictor"),
    "model.architecture": ("Architecture",),
    "model.googlenet": ("GoogLeNet", "GoogLeNetOutput", "Inception", "create_model"),
    "recipe": ("Recipe", "load_recipe"),
    "training.loop": ("TrainingResult", "train"),
    "training.run_folder": ("RunFolder",),
    "training.setup": ("Trainer",),
    "weights.convert": ("import_weights",),
    "weights.model_file": ("ModelInfo", "load", "save"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted((*_HOME, "__version__"))  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'googlenet' has no attribute {name!r}")
    value = getattr(import_module(f"googlenet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
