"""GoogLeNet (Inception v1) that you can train, understand and ship."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

# Imported when first used, so that `import googlenet` and `googlenet --help` do not wait for torch.
_MODULES = {
    "data.dataset": ("ImageDataset", "ImageSplit", "load_dataset"),
    "data.loader": ("load_data",),
    "data.transforms": ("InputSpec",),
    "errors": ("DivergedError", "RunError", "UserError"),
    "evaluation.metrics": ("Coverage", "Evaluation"),
    "evaluation.report": ("evaluate",),
    "explanation.ablation": ("Ablation", "ablate"),
    "explanation.dream": ("dream",),
    "explanation.explain": ("Explanation", "explain"),
    "explanation.summary": ("Summary", "summarize"),
    "explanation.visualize": ("Visualization", "visualize"),
    "inference.export": ("Exported", "export"),
    "inference.predictor": ("Prediction", "Predictor"),
    "inference.web": ("export_web",),
    "model.architecture": ("Architecture",),
    "model.googlenet": ("GoogLeNet", "GoogLeNetOutput"),
    "model.layers": ("Inception",),
    "recipe": ("Recipe", "load_recipe"),
    "training.folds": ("CrossValidation", "cross_validate"),
    "training.loop": ("TrainingResult", "train"),
    "training.run_folder": ("RunFolder",),
    "training.setup": ("Trainer",),
    "weights.convert": ("import_weights",),
    "weights.create": ("create_model",),
    "weights.load": ("load",),
    "weights.model_file": ("KnownRule", "ModelInfo", "save"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted((*_HOME, "__version__"))  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("googlenet")
    if name not in _HOME:
        raise AttributeError(f"module 'googlenet' has no attribute {name!r}")
    with warnings.catch_warnings():
        # accelerate imports tqdm's bar for notebooks, which we do not use and which warns if there is no ipywidgets
        warnings.filterwarnings("ignore", message="IProgress not found")
        value = getattr(import_module(f"googlenet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
