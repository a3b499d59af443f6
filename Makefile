# Two commands on a fresh machine with Python >= 3.8:
#   make demo    sets itself up, trains on real molecules, writes demo/report.html
#   make test    sets itself up, runs everything that CI runs
# and a third: make demo-chemgpt learns molecules as text and writes new ones, to demo-chemgpt/report.html.
# Choose the interpreter with PYTHON=python3.12. On Linux, torch from PyPI brings CUDA libraries of several
# GB; TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the small CPU build instead.

# A name on the PATH may be a shim that does not run: take the first that does.
runs = $(shell for p in $(1); do $$p -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && echo $$p && break; done)
PYTHON ?= $(call runs,python3.11 python3.12 python3.13 python3 python3.10 python3.9 python3.8 python)
PYTHON38 ?= $(call runs,python3.8 $(HOME)/.pyenv/versions/3.8*/bin/python3.8)
VENV ?= .venv
VENV38 ?= .venv38
VENV_SDK ?= .venv-sdk
POPLAR_SDK ?=
TORCH_INDEX ?=
PIP = -m pip install --disable-pip-version-check -q -c .ci/constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo demo-chemgpt test test-py38 test-sdk print-python38 lint types clean

# A second time it goes on from what the first has made: from the results, or from where it was stopped.
demo: $(VENV)/.demo
	$(call train,nci3d_demo,demo)

demo-chemgpt: $(VENV)/.demo
	$(call train,chemgpt_demo,demo-chemgpt)

define train
@if [ -f $(2)/checkpoints/last.safetensors ]; then set -- --resume $(2); \
else set -- --config $(1) --out $(2); fi; $(VENV)/bin/ipu-chem train "$$@"
endef

test: $(VENV)/.dev lint
	$(VENV)/bin/python -m pytest -n auto

lint: $(VENV)/.dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

types: $(VENV)/.dev
	$(VENV)/bin/python -m pyright

# The Python and torch of the last PopTorch: what an IPU process imports must run there.
test-py38:
ifeq ($(PYTHON38),)
	@echo "make test-py38: NO PYTHON 3.8 FOUND, the suite did NOT run on PopTorch's Python; set PYTHON38=..." >&2
	@exit 2
else
	$(MAKE) --no-print-directory $(VENV38)/.dev PYTHON=$(PYTHON38) VENV=$(VENV38)
	$(VENV38)/bin/python -m pytest -n auto
endif

# PopTorch itself without a device: POPLAR_SDK is the folder of an unpacked Poplar SDK, 3.3 or 3.4.
test-sdk:
	@.ci/test-sdk "$(POPLAR_SDK)" "$(PYTHON38)" "$(VENV_SDK)"

print-python38:
	@echo $(PYTHON38)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.8 or newer found; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml .ci/constraints.txt
	$(VENV)/bin/python $(PIP) -e '.[cpu,plot]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml .ci/constraints.txt
	$(VENV)/bin/python $(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV38) $(VENV_SDK) demo demo-chemgpt build dist .pytest_cache .ruff_cache .hypothesis
