# make train: from nothing to a trained network.   make test: lint, types, tests.
# ARGS goes to the command: make train ARGS="--recipe tutorial --epochs 1"

PYTHON ?= python3
# Packages are kept here as well, so that a second checkout installs without a network.
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/googlenet/wheels

VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_RETRIES=1 "$(BIN)/python" -m pip

.PHONY: train test wheel-test check soak soak-kills soak-hosts soak-files mutants bench study compare notebooks docs docs-serve clean

train: $(VENV)/installed
	"$(BIN)/python" -m googlenet train $(ARGS)

# This machine measured; why GoogLeNet converges slowly; GoogLeNet compared with other networks. ARGS="--help" lists options.
bench: $(VENV)/installed
	"$(BIN)/python" -m benchmarks $(ARGS)

study: $(VENV)/installed
	"$(BIN)/python" -m experiments.convergence $(ARGS)

compare: $(VENV)/installed
	"$(BIN)/python" -m experiments.comparison $(ARGS)

# Runs the notebooks in examples/ and saves them with their outputs, in half an hour; ARGS=--links writes their links only.
notebooks: $(VENV)/installed-notebooks
	"$(BIN)/python" scripts/notebooks.py $(ARGS)

# The documentation site, in site/; docs-serve shows it on http://127.0.0.1:8000 and follows changes.
docs: $(VENV)/installed-docs
	$(MKDOCS) build $(ARGS)

docs-serve: $(VENV)/installed-docs
	$(MKDOCS) serve $(ARGS)

test: check
	"$(BIN)/python" -m pytest -n 2 --dist worksteal $(ARGS)

# What takes too long for the tests. Each part alone takes options: make soak-kills ARGS="--kills 20"
soak: soak-kills soak-hosts soak-files

# Kills runs at 100 random points, resumes them, and compares them with whole ones.
soak-kills: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 "$(BIN)/python" -m tests.soak.kills $(ARGS)

# Takes processes and hosts away.
soak-hosts: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 "$(BIN)/python" -m tests.soak.hosts
	OMP_NUM_THREADS=1 "$(BIN)/python" -m torch.distributed.run --standalone --nproc-per-node 4 -m tests.soak.resumed

# Reads 100,000 damaged files. It continues where it was interrupted; ARGS="--targets image,recipe --cases 1000"
soak-files: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 "$(BIN)/python" -m tests.soak.hostile --log soak-files.jsonl $(ARGS)

# Changes one thing at a time in the modules that keep and read files: how many changes do their tests notice?
mutants: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 "$(BIN)/python" -m tests.soak.mutants $(ARGS)

# The wheel in an empty environment, with nothing of the checkout. It takes a minute, mostly to install PyTorch.
wheel-test:
	scripts/wheel_test.sh "$(PYTHON)" "$(WHEELS)"

check: $(VENV)/installed-dev
	"$(BIN)/python" -m ruff format --check .
	"$(BIN)/python" -m ruff check .
	"$(BIN)/python" -m mypy

# What is left out of the arguments of `download` is found in $(WHEELS) already, or the installation says what it lacks.
define install
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "googlenet needs Python 3.11 or newer; say make PYTHON=...")'
	"$(BIN)/python" -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	mkdir -p "$(WHEELS)"
	$(PIP) download -q -d "$(WHEELS)" -c constraints.txt hatchling editables $(1) || echo "no network? installing from $(WHEELS)"
	$(PIP) install -q --no-index --find-links "$(WHEELS)" -c constraints.txt hatchling editables $(1)
	$(PIP) install -q --no-index --no-deps --no-build-isolation -e .
	touch $@
endef

$(VENV)/installed: pyproject.toml constraints.txt
	$(call install,$$($(REQUIREMENTS)))

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(call install,$$($(REQUIREMENTS) dev))

$(VENV)/installed-docs: pyproject.toml constraints.txt
	$(call install,$$($(REQUIREMENTS) docs))

$(VENV)/installed-notebooks: pyproject.toml constraints.txt
	$(call install,$$($(REQUIREMENTS) notebooks export))

# The variable silences an advertisement of the theme. With -m, the usage lines of the commands would contain it.
MKDOCS = NO_MKDOCS_2_WARNING=1 "$(BIN)/python" "$(BIN)/mkdocs"

REQUIREMENTS = "$(PYTHON)" scripts/requirements.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
