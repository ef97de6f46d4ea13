# make quickstart   train and test a small speech LLM on a corpus made here
# make test         run the test suite
# make lint         ruff and mypy
# make docs         build the documentation into docs/_build
# make clean        delete the environment and build outputs, not runs and data

PYTHON ?= python3
BIN ?= .venv/bin
STAMP ?= .venv/.installed
RUN ?= runs/quickstart
RECIPE ?= recipes/quickstart.yaml
FLAGS ?=

.PHONY: help quickstart test lint docs clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "speechllm needs Python 3.11 or later; name one: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	@touch $@

# A run that was interrupted goes on from its last checkpoint; one that is done is shown again.
quickstart: $(STAMP)
	@set -e; \
	if [ -f $(RUN)/test/report.txt ]; then \
		echo "Found $(RUN); delete it to train anew."; echo; cat $(RUN)/test/report.txt; \
	else \
		if [ ! -f $(RUN)/trained ]; then \
			$(BIN)/speechllm fit --config $(RECIPE) $(FLAGS) --run_dir $(RUN) --resume auto; \
			touch $(RUN)/trained; \
		fi; \
		$(BIN)/speechllm test --config $(RECIPE) $(FLAGS) --run_dir $(RUN); \
	fi; \
	echo; \
	echo "Checkpoints:  $(RUN)/checkpoints (best.ckpt, last.ckpt)"; \
	echo "Predictions:  $(RUN)/test/predictions.jsonl, figures and their origin in run.json, this text in report.txt"; \
	echo "Logs:         $(RUN)/logs (tensorboard --logdir $(RUN)/logs), resolved recipe in config.yaml"

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv docs/_build docs/jupyter_execute .mypy_cache .pytest_cache .ruff_cache
