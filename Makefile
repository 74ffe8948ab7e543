# Everything runs in .venv, which is made when it is missing. Python 3.11 or newer.
PYTHON ?= python3
SEEDS ?= 1
BIN = .venv/bin
export OMP_WAIT_POLICY = passive

.PHONY: install demo test lint docs bench clean

install: .venv/ready
	@echo 'diffx is in .venv. Type `. .venv/bin/activate`, and then `diffx`, which is `python -m diffx`.'

demo: .venv/ready
	@echo "make demo: plain DiT, REPA, MDT, TREAD and REPA+TREAD on handwritten digits, seeds 0 to $$(($(SEEDS) - 1)), two"
	@echo "runs at a time: about $$((($(SEEDS) * 13 + 11) / 2)) minutes on two free CPU cores. Ctrl-C saves; the same command goes on."
	$(BIN)/python -m diffx -m +experiment=demo 'seed=range($(SEEDS))'

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

docs: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

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
