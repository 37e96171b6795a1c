"""Prints what pyproject.toml asks for, and what the extras named ask for.   usage: requirements.py [EXTRA ...]"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
wanted = [*project["dependencies"]]
for extra in sys.argv[1:]:
    wanted += project["optional-dependencies"][extra]
print(*(requirement.replace(" ", "") for requirement in wanted))
