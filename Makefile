# `make help` lists the targets. Every target installs what it needs; none deletes anything.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# faiss-cpu and faiss-gpu cannot be installed together; a machine with an NVIDIA driver gets the GPU build.
# CONSTRAINTS=constraints.txt installs the versions that the tests last passed with; with HASHES=hashes.txt too, for machines without a GPU,
# only files whose SHA-256 is in that list.
FAISS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
# milvus-lite requires faiss-cpu, so it is installed (and tested) only with the CPU build.
COMMA := ,
EXTRAS := $(FAISS)$(if $(filter cpu,$(FAISS)),$(COMMA)milvus-lite)

.PHONY: help demo test slow faults lint docs bench constraints hashes licences
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY) ## render the demo dataset, train with IMAE on 30 % wrong labels, evaluate, write the report
	@$(PY) -m reid demo

# One process per core with one thread each: more threads would only slow down tests on small tensors.
test: $(READY) ## run the whole test suite
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

slow: $(READY) ## run the slow tests, with Ray: clusters and lost machines
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[ray]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 0 -m slow

faults: $(READY) ## try FAULTS (default 1000) hostile inputs of each kind, kills and full disks; append the results to build/faults.md
	@mkdir -p build
	OMP_NUM_THREADS=1 FAULTS=$(or $(FAULTS),1000) FAULTS_TABLE=build/faults.md $(PY) -m pytest -n 0 tests/faults
	@cat build/faults.md

lint: $(READY) ## check style, types and import rules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

docs: $(READY) ## build the docs site into build/site; warnings and broken links are errors
	$(PY) docs/build.py

constraints: $(READY) ## write constraints.txt: the versions in .venv, for continuous integration
	@(echo "# Versions that the tests last passed with (Linux, Python 3.11). Made by: make constraints"; \
	  $(PY) -m pip freeze --all --exclude-editable --exclude faiss-gpu --exclude pip) >constraints.txt

hashes: constraints.txt ## write hashes.txt: SHA-256 of the files of these versions (needs uv: pip install uv)
	uv pip compile $< --generate-hashes --no-deps --no-header --no-annotate --python-version 3.11.9 --quiet --output-file $@.txt

licences: $(READY) ## write docs/licences.md: the licences of everything in .venv
	@(sed '/^| /,$$d' docs/licences.md; \
	  $(PY) -m piplicenses --from=mixed --format=markdown --order=name --ignore-packages robust-reid \
	    | grep -v '^| *|' | sed -E 's/ +/ /g; s/-{4,}/---/g') >docs/licences.new
	@mv docs/licences.new docs/licences.md

bench: $(READY) ## compare CCE, MAE, GCE and IMAE on the demo data at 0, 30 and 60 % wrong labels (resumable, an hour on 2 cores)
	@$(PY) tools/make_demo.py --out data/demo
	$(PY) benchmarks/demo_losses.py

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11, 4) else f"expected Python 3.11.4 or newer, got {v[0]}.{v[1]}.{v[2]}; use: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(if $(HASHES),$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $(HASHES))
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS),dev,docs]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	@touch $@
