# make run    set up and run the demo sweep            make test   set up and run the tests
# make lint   ruff and mypy                            make ui     open the runs in the MLflow UI
# make test-faults   kill, hang, fill, lock and cut off everything, but for what is long
# make test-long     tests and faults that take minutes each, or are one more of a kind (before a release)
# make audit  known holes of the pinned versions (asks the package registry)
# Tests have real faces in STARSWEEP_TEST_DATA, and wait for anything as long as STARSWEEP_TEST_PATIENCE says [600 s].
# make bench  measure what it costs, into benchmarks/RESULTS.md (three quarters of an hour; leave the machine alone)
# make bench-gpu   the same for one CUDA GPU: precision, steps, faces, two trials on it, memory (8 minutes)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-faults test-long audit bench bench-gpu lint format ui constraints clean

run: $(READY)
	$(BIN)/python -m sweep.run

PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST) --ignore tests/faults -m "not long"

test-faults: $(READY)
	$(PYTEST) tests/faults -m "not long"

test-long: $(READY)
	$(PYTEST) -m long

audit: $(READY)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

bench: $(READY)
	$(BIN)/python -m benchmarks

bench-gpu: $(READY)
	$(BIN)/python -m benchmarks gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(READY)
	mkdir -p outputs
	@echo "choose 'Model training', or open http://127.0.0.1:5000/#/experiments/1?workflowType=machine_learning"
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/outputs/mlflow.db

# Its own environment; --no-build-isolation keeps the build from asking for tools a second time, --no-compile leaves the
# compiling to the first import, which is of a tenth of the files.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "starsweep needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

constraints: $(READY)
	$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
