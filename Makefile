# Needs make and Python >= 3.11; every target makes or refreshes .venv first where it must.
# `make run ARGS="02 -p kappa 0.5"` passes arguments on, `make run PYTHON=...` names a Python.
.PHONY: help venv run test fast lab notebooks figures docs bench gpu-check hooks clean
.DEFAULT_GOAL := help

BIN     := .venv/bin
READY   := .venv/.complete
PIP     := $(BIN)/python -m pip --disable-pip-version-check
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
# Only make bench installs them, without the commercial solver, the CUDA and the old numpy that they
# ask for.
PEERS   := torchidl==0.0.4 torchdeq==0.1.0 silva-networks==1.2.2 celer==0.7.4 skglm==0.5 \
           numba==0.68.1 llvmlite==0.50.0
# A file stays in one process, and the files go out in the order given: no long one comes last.
JOBS    := -n 2 --dist loadfile --no-loadscope-reorder
PROBE   := $(shell grep -m1 '^[a-z].*==' requirements.txt)

help:
	@echo "make run        run the lab series headless into runs/<time>/"
	@echo "make lab        JupyterLab on this machine, opened in my_labs/, your copy of the labs"
	@echo "make test       everything CI runs; make test T=tests/core runs these tests alone"
	@echo "make fast       ruff, types, the tests of core and models, in a minute"
	@echo "make notebooks  execute the labs and save them; T=notebooks/02_*.ipynb for one"
	@echo "make figures    redraw the committed gallery figures/"
	@echo "make docs       the site, build/docs/index.html; its labs are run where they changed"
	@echo "make bench      time this project beside its peers (some minutes)"
	@echo "make gpu-check  on a machine with a GPU: its tests, every lab, a training step"
	@echo "make hooks      ruff and types before each commit, notebook diffs as text"
	@echo "make venv       make the environment .venv alone"
	@echo "make clean      remove .venv and caches; runs/ stays"

venv: $(READY)

$(READY): requirements.txt pyproject.toml
	@found=; for p in $(PYTHONS); do \
	  v=$$($$p -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then python=$$p; break; fi; \
	  found="$${found:+$$found, }$$p ($$v)"; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "idl_lab needs Python >= 3.11 and found only $${found:-no $(PYTHONS)}:" \
	    "install one or name it, make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python ($$v) has no venv or ensurepip module:" \
	    "install it (on Debian: apt install python$$v-venv)." >&2; exit 2; fi; \
	$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || $$python -m venv --clear .venv
	@rm -f $(READY); \
	if ! $(PIP) install --dry-run --quiet --no-index --no-deps -r requirements.txt >/dev/null 2>&1 \
	&& ! $(PIP) download --quiet --no-deps --no-cache-dir --retries 0 --timeout 15 \
	    --dest .venv/probe $(PROBE) >/dev/null 2>&1; then \
	  echo "The packages cannot be downloaded: pip reaches no package index from here;" \
	    "connect to the network (or set pip's index or proxy) and try again." >&2; exit 2; fi
	$(PIP) install --no-compile -r requirements.txt
	@# By itself pip compiles on one core only, and the packages' own tests too.
	@$(BIN)/python -m compileall -q -q -j 0 -x '/tests/' .venv/lib || true
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(READY)

run: $(READY)
	@$(BIN)/python -m idl_lab run $(ARGS)

test: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=120 $(or $(T),$(JOBS) tests notebooks)

fast: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/core tests/models -k "not compiled"

lab: $(READY)
	@$(BIN)/python -m idl_lab lab my_labs $(ARGS)

# Without the widgets' state: a panel leaves its picture, which a reader sees without a kernel.
notebooks: $(READY)
	$(BIN)/python -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False \
	  $(or $(T),notebooks/*.ipynb)

figures: $(READY)
	@$(BIN)/python -m idl_lab.runs.gallery $(ARGS)

# Some ten minutes at first, for the pictures that its panels move over; what did not change is not
# run again. The warnings of Sphinx are errors.
docs: $(READY)
	@IDL_LAB_PICTURES=40 $(BIN)/python -m idl_lab run --resume --out build/labs
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "The site is build/docs/index.html"

bench: $(READY)
	@$(PIP) install --quiet --no-deps $(PEERS)
	@$(BIN)/python -m benchmarks $(ARGS)

# torchidl, beside which the step is timed, is left out where it cannot be had.
gpu-check: $(READY)
	@$(PIP) install --quiet --no-deps $(firstword $(PEERS)) || true
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

hooks: $(READY)
	@$(BIN)/pre-commit install
	@git config diff.jupytext.textconv '$(BIN)/jupytext --quiet --to py:percent --output -'

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/labs docs/project build/docs
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
