# Everything runs in .venv, which is made when it is missing. Python 3.11 or newer.
PYTHON ?= python3
SEEDS ?= 1
BIN = .venv/bin
export OMP_WAIT_POLICY = passive

.PHONY: demo test lint bench clean

demo: .venv/ready
	$(BIN)/python -m diffx -m +experiment=demo 'seed=range($(SEEDS))'

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

bench: .venv/ready
	$(BIN)/python -m benchmarks.step

.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv: about 6 GB with PyTorch, a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv runs
