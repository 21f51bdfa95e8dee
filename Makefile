# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv first; a second run is quick.
PYTHON ?= python3
# One fixed build, installed first, so that nothing else pulls a different torch.
TORCH ?= torch==2.13.0
BIN := .venv/bin
SIDE_BY_SIDE := -n auto --dist loadfile

.PHONY: demo test test-all check bench clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: .venv/ready
	$(BIN)/vocabtrim demo

test: .venv/ready
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-all: .venv/ready
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m ""

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python bench/limits.py
	$(BIN)/python bench/count.py
	$(BIN)/python bench/trim.py
	$(BIN)/python bench/start.py
	$(BIN)/python bench/head.py
	$(BIN)/python bench/decode.py
	$(BIN)/python bench/scale.py
	$(BIN)/python bench/peers.py --size 50M
	$(BIN)/python bench/paper.py
	$(BIN)/python bench/replay.py
	$(BIN)/python bench/tune.py

clean:
	rm -rf .venv bench/out demo out vocabtrim-demo.html
