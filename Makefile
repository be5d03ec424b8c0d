# Two commands: `make run` trains on real galaxies, `make test` runs the whole suite. The README has the same without make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

run: $(VENV)/.book  ## train and score notebook 01 on the embedded galaxies
	$(BIN)/aion-lite run 01_predict_redshifts

test: $(VENV)/.test  ## the whole suite: package, notebook pairs, outputs, papermill, site
	$(BIN)/pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 120 --nbval-sanitize-with tests/nbval_sanitize.cfg tests notebooks

lab: $(VENV)/.book  ## JupyterLab in notebooks/
	$(BIN)/jupyter lab notebooks

book: $(VENV)/.book  ## the site, in _build/html
	$(BIN)/jupyter-book build . --config notebooks/_config.yml -W -n --keep-going

notebooks: $(VENV)/.book  ## regenerate and run every .ipynb from its .py half; make notebooks ONLY=01_predict_redshifts for one
	$(BIN)/python scripts/make_notebooks.py $(ONLY)

gpu-check: $(VENV)/.book  ## what torch sees, and a training step on it
	$(BIN)/python scripts/gpu_check.py

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf _build runs $(VENV)

# torch and torchvision must be a pair of builds, so the environment is a new one and pip chooses both.
# pip fills it from outside (--python), because Debian's Python makes environments but cannot put pip into them.
$(VENV)/.book: pyproject.toml
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install pip -e ".[book]"
	touch $@

$(VENV)/.test: $(VENV)/.book
	$(BIN)/python -m pip install -e ".[book,test]"
	touch $@

.PHONY: run test lab book notebooks gpu-check lint clean
