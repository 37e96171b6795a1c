"""The public names, for type checkers; `__init__.py` imports each when it is first used."""

from googlenet.data.dataset import ImageDataset as ImageDataset, ImageSplit as ImageSplit, load_dataset as load_dataset
from googlenet.data.loader import load_data as load_data
from googlenet.data.transforms import InputSpec as InputSpec
from googlenet.errors import DivergedError as DivergedError, RunError as RunError, UserError as UserError
from googlenet.evaluation.metrics import Coverage as Coverage, Evaluation as Evaluation
from googlenet.evaluation.report import evaluate as evaluate
from googlenet.explanation.ablation import Ablation as Ablation, ablate as ablate
from googlenet.explanation.dream import dream as dream
from googlenet.explanation.explain import Explanation as Explanation, explain as explain
from googlenet.explanation.summary import Summary as Summary, summarize as summarize
from googlenet.explanation.visualize import Visualization as Visualization, visualize as visualize
from googlenet.inference.export import Exported as Exported, export as export
from googlenet.inference.predictor import Prediction as Prediction, Predictor as Predictor
from googlenet.inference.web import export_web as export_web
from googlenet.model.architecture import Architecture as Architecture
from googlenet.model.googlenet import GoogLeNet as GoogLeNet, GoogLeNetOutput as GoogLeNetOutput
from googlenet.model.layers import Inception as Inception
from googlenet.recipe import Recipe as Recipe, load_recipe as load_recipe
from googlenet.training.folds import CrossValidation as CrossValidation, cross_validate as cross_validate
from googlenet.training.loop import TrainingResult as TrainingResult, train as train
from googlenet.training.run_folder import RunFolder as RunFolder
from googlenet.training.setup import Trainer as Trainer
from googlenet.weights.convert import import_weights as import_weights
from googlenet.weights.create import create_model as create_model
from googlenet.weights.load import load as load
from googlenet.weights.model_file import KnownRule as KnownRule, ModelInfo as ModelInfo, save as save

__version__: str
__all__: list[str]
