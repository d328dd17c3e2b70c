PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: install demo test bench docs lint

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,examples]'
	touch $@

demo: install
	$(RUN) examples/train_digits.py

test: install
	$(RUN) -m pytest -n auto --dist loadfile

bench: install
	for b in benchmarks/*.py; do $(RUN) $$b --quick || exit 1; done

docs: $(VENV)/.docs
	$(RUN) -m sphinx --builder html --fail-on-warning --keep-going --quiet doc build/docs

$(VENV)/.docs: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

lint: install
	$(RUN) -m ruff check .
