PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: install demo test coverage bench docs lint dist wheel-test

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,examples]'
	touch $@

demo: install
	$(RUN) examples/train_digits.py

test: install
	$(RUN) -m pytest -n auto --dist loadfile

coverage: install
	$(RUN) -m pytest -n auto --dist loadfile --cov --cov-report term-missing:skip-covered --cov-fail-under 92

bench: install
	for b in benchmarks/*.py; do $(RUN) $$b --quick || exit 1; done

docs: $(VENV)/.docs
	$(RUN) -m sphinx --builder html --fail-on-warning --keep-going --quiet doc build/docs

$(VENV)/.docs: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# wheel and source archive, what is in them, and whether a package index takes them; PARALIFT_SOURCE: setup.py
dist: $(VENV)/.release
	rm -rf dist
	$(RUN) -m build --no-isolation --quiet
	$(RUN) -m zipfile --list dist/*.whl
	$(RUN) -m tarfile --list dist/*.tar.gz
	$(RUN) -m twine check --strict dist/*

$(VENV)/.release: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	touch $@

# the wheel alone in an environment of its own, without network: the packages it needs are those of .venv, by a path file
WHEEL := build/wheel-test
wheel-test: dist
	rm -rf $(WHEEL)
	$(RUN) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet --no-index --no-deps dist/*.whl
	$(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$(echo $(WHEEL)/lib/python*/site-packages)/packages.pth
	cd $(WHEEL) && bin/python -c "import paralift, sys; assert paralift.__file__.startswith(sys.prefix), paralift.__file__"
	cd $(WHEEL) && bin/paralift info && bin/paralift demo --quick
