# make demo: install, find objects in the samples and in photos, score them, write a report.
# make demo PHOTOS=FOLDER: in your own photos, too.   make weights: get the weights of the model for photos.
# make test: install, check the code (make check), run all tests; 12 to 16 minutes on two cores.
# make chromium: get the browser that tests of pages need.   make docs: the documentation as a site.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
RESULTS = demo-results
PHOTOS =

.PHONY: install demo weights chromium check test docs diagram clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): about 8 GB with PyTorch, which takes a few minutes (see docs/install.md)."
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e '.[test]'
	touch $@

demo: install
	@test -e "$(or $(PHOTOS),.)" || { echo "There is no folder $(PHOTOS)" >&2; exit 2; }
	rm -rf $(RESULTS)
	PATH="$(abspath $(BIN)):$$PATH" evaluation/demo.sh $(RESULTS) "$(PHOTOS)"

weights: install
	$(BIN)/python evaluation/real_weights.py

chromium:
	tests/install_chromium.sh

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	@tests/install_chromium.sh || true
	$(BIN)/python -m pytest -n 2 -r s

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

diagram: install
	$(BIN)/python docs/import_diagram.py

clean:
	rm -rf $(VENV) $(RESULTS) site build dist *.egg-info
