# The only command surface: `make help` lists it. Every target sets up what it needs; none deletes anything.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# faiss-cpu and faiss-gpu exclude each other; a machine with an NVIDIA driver gets the GPU build.
# CONSTRAINTS=constraints.txt installs the versions that the tests last passed with; with HASHES=hashes.txt too, for machines without a GPU,
# only files whose SHA-256 is in that list.
FAISS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
# milvus-lite brings faiss-cpu, so its tests run where that is the build.
COMMA := ,
EXTRAS := $(FAISS)$(if $(filter cpu,$(FAISS)),$(COMMA)milvus-lite)

.PHONY: help demo test slow faults lint docs bench constraints hashes licences
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY) ## render the demo dataset, train with IMAE on 30 % wrong labels, evaluate, write the report
	@$(PY) -m reid demo

# One process per core with one thread each: many threads on the small tensors of tests only get in each other's way.
test: $(READY) ## run the whole test suite
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

slow: $(READY) ## the tests that take long, with Ray: clusters, machines that are lost
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[ray]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 0 -m slow

faults: $(READY) ## try FAULTS (1000 unless given) hostile inputs of each kind, kills, full disks; appends to build/faults.md what became of them
	@mkdir -p build
	OMP_NUM_THREADS=1 FAULTS=$(or $(FAULTS),1000) FAULTS_TABLE=build/faults.md $(PY) -m pytest -n 0 tests/faults
	@cat build/faults.md

lint: $(READY) ## check style, types and which file imports which
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

docs: $(READY) ## build the docs site into build/site; a warning or a broken link is an error
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

bench: $(READY) ## CCE, MAE, GCE and IMAE on the demo data at 0, 30 and 60 % wrong labels (resumable, an hour on 2 cores)
	@$(PY) tools/make_demo.py --out data/demo
	$(PY) benchmarks/demo_losses.py

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11, 4) else f"Python 3.11.4 or newer is needed, {v[0]}.{v[1]}.{v[2]} found; call: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(if $(HASHES),$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $(HASHES))
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS),dev,docs]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	@touch $@
