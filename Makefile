# make demo: install, discover objects in the sample images, score them, report.   make test: install, run all tests.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
RESULTS = demo-results

.PHONY: install demo test clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test,photos]'
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
	@echo "A page of it all:    $(RESULTS)/report/index.html"

test: install
	$(BIN)/python -m pytest -n 2

clean:
	rm -rf $(VENV) $(RESULTS) build dist *.egg-info
