# make demo: install, discover objects in the sample images, score them, write a report.
# make test: install, check the code (make check), run all tests.   make docs: the documentation as a site.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
RESULTS = demo-results

.PHONY: install demo check test docs diagram clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

demo: install
	rm -rf $(RESULTS)
	$(BIN)/python data/skimage_photos.py
	$(BIN)/lost-reg run --backbone tiny --dataset samples --data-root data --out $(RESULTS)/samples --visualize --save-maps
	$(BIN)/lost-reg run --backbone tiny --dataset data/skimage --out $(RESULTS)/photos --visualize --save-maps
	$(BIN)/lost-reg corloc $(RESULTS) --data-root data
	$(BIN)/lost-reg report $(RESULTS) --data-root data --out $(RESULTS)/report
	@echo
	@echo "Results:             $(RESULTS)/samples and $(RESULTS)/photos (predictions.jsonl, run.json)"
	@echo "Pictures with boxes: $(RESULTS)/samples/pictures and $(RESULTS)/photos/pictures"
	@echo "Report:              $(RESULTS)/report/index.html"

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -n 2

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

diagram: install
	$(BIN)/python docs/import_diagram.py

clean:
	rm -rf $(VENV) $(RESULTS) site build dist *.egg-info
