# make demo   install into .venv, answer a question about an example picture, write out/demo.png
# make test   install into .venv, run the whole test suite
#
# Plain make and Python 3.11 or newer are all that is needed. What can be set on the command line:
#   PYTHON=python3.12        the Python that makes the virtual environment
#   VENV=.venv               where it is made
#   TORCH_OPTIONS="--index-url https://download.pytorch.org/whl/cpu"
#                            on Linux without a GPU: a far smaller torch than the one PyPI has
#   PYTEST_OPTIONS="-x tests/cli"   handed to pytest
#   WORKERS=0                tests that run side by side: files are handed out; 0: one after the other
# The tests read the golden data from the folder that the variable GROMA_GOLDEN names, else from tests/golden/data.

PYTHON = python3
VENV = .venv
CONSTRAINTS = constraints.txt
TORCH_OPTIONS =
PYTEST_OPTIONS =
WORKERS = 2

OLD_VENV = .venv-transformers-5.17
OLD_CONSTRAINTS = constraints-transformers-5.17.txt

BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: help install demo test lint types test-transformers clean

help:
	@sed -n -e '/^#/!q' -e 's/^# \{0,1\}//p' Makefile
	@echo 'make install, lint, types, test-transformers, clean'

install: $(INSTALLED)

# torch comes first and alone: asked for together with the rest, pip may choose another build of it.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("make: Python 3.11 or newer is needed, use make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo '*' > $(VENV)/.gitignore
	$(BIN)/python -m pip install $$(grep '^torch==' $(CONSTRAINTS)) $(TORCH_OPTIONS)
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	@mkdir -p out
	$(BIN)/groma ask examples/scene.png "Describe the image in detail." --out out/demo.png

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright

# The newest supported transformers is what constraints.txt pins, the oldest has an environment of its own.
test-transformers: test
	$(MAKE) test VENV=$(OLD_VENV) CONSTRAINTS=$(OLD_CONSTRAINTS)

# Everything that make made. Training runs stay.
clean:
	rm -rf $(VENV) $(OLD_VENV) out .pytest_cache .hypothesis .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
