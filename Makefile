# make run: set up and run the main job.   make test: set up and test.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
ENGINE ?= docker
IMAGE ?= sdxl-bench

.PHONY: run test lint quick check ui image image-cuda engine clean help

help:
	@echo "make run [ARGS=...]   install, then python run.py ARGS"
	@echo "make test [ARGS=...]  install, then pytest ARGS"
	@echo "make lint             ruff, mypy and the layers"
	@echo "make check            lint and the quick tests; make quick: the tests alone"
	@echo "make ui               MLflow on 127.0.0.1"
	@echo "make image            a container for CPUs; make image-cuda: for NVIDIA GPUs"
	@echo "make clean            remove .venv and caches; results stay"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11 to 3.13 is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

run: .venv/installed
	@$(BIN)/python run.py $(ARGS)

test: .venv/installed
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: .venv/installed
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

QUICK := $(addprefix tests/config/test_,derive.py help.py load.py loras.py ranges.py \
	rules_engines.py rules_model.py shortcuts.py words.py) tests/core/test_command.py \
	tests/core/test_json_part.py tests/core/test_terminal.py tests/test_house.py \
	tests/test_layers.py tests/report/test_golden.py

quick: .venv/installed
	@$(BIN)/python -m pytest -n 2 -q -m "not slow" $(QUICK) $(ARGS)

check: .venv/installed
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint quick

ui: .venv/installed
	@$(BIN)/python -m sdxl mlflow ui

image: engine
	$(ENGINE) build --tag $(IMAGE):cpu $(ARGS) .

image-cuda: engine
	$(ENGINE) build --tag $(IMAGE):cuda \
		--build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 \
		--build-arg PACKAGES="g++ python3 python3-dev python3-venv" \
		--build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 $(ARGS) .

engine:
	@command -v $(ENGINE) > /dev/null \
		|| { echo "no $(ENGINE) here: make image ENGINE=podman, or install one"; exit 2; }

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
