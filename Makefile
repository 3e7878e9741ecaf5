# Tailrace's verbs. Each sets up what it needs by itself; nothing but Python >= 3.11 is assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The environment is rebuilt when, and only when, something that it is made from changes.
INPUTS := requirements.lock pyproject.toml clients/python/pyproject.toml

.PHONY: help setup demo up test check format lock bench bench-quick capacity overload schema chaos drill fuzz clean
help:  ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: $(STAMP)  ## make .venv with everything, pinned and hash-checked
$(STAMP): $(INPUTS)
	@echo "Setting up .venv (once; about a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tailrace needs Python 3.11 or newer: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e clients/python -e .
	@touch $(STAMP)

demo: setup  ## a stream that is cut, killed and cancelled, and ends byte-exact (no key, no server, no Docker)
	@$(BIN)/tailrace demo $(ARGS)

up: setup  ## embedded Valkey, an API node and a worker on this machine, until Ctrl-C
	@$(BIN)/tailrace up $(ARGS)

test: setup  ## the whole test suite
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

check: setup  ## format, lint (bandit's rules too), strict types, known holes in dependencies
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m cli.audit

format: setup  ## let ruff mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The image's two locks hold the very versions of requirements.lock: what is tested is what runs.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --no-annotate --format requirements.txt
lock: setup  ## resolve the dependencies anew: requirements.lock, and from it the image's two
	@set -e; new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; \
	grep -v '"tailrace-client' pyproject.toml > "$$new/pyproject.toml"; \
	pin() { echo "# $$1 Remade by \`make lock\`." > "$$new/lock"; shift; "$$@" >> "$$new/lock"; }; \
	pin 'Every dependency of Tailrace and of its development, pinned and hash-checked.' \
		$(COMPILE) --all-extras "$$new/pyproject.toml"; cp "$$new/lock" requirements.lock; \
	pin 'What the image runs beside our own two wheels, pinned and hash-checked.' \
		$(COMPILE) --extra langchain -c requirements.lock "$$new/pyproject.toml"; cp "$$new/lock" deploy/requirements-server.lock; \
	echo 'atheris>=3,<3.1' > "$$new/fuzz.in"; pin 'What leads `make fuzz` by coverage, pinned and hash-checked.' \
		$(COMPILE) "$$new/fuzz.in"; cp "$$new/lock" tests/fuzz/requirements.lock; \
	echo hatchling > "$$new/build.in"; pin 'What builds our own two wheels for the image, pinned and hash-checked.' \
		$(COMPILE) -c requirements.lock "$$new/build.in"; cp "$$new/lock" deploy/requirements-build.lock

# Without nchan, which is a package of Debian's: `python -m benchmarks.baselines.install nchan` as root.
bench: setup  ## speed, cost and memory against the direct path and those that can resume (about 40 minutes)
	-@$(BIN)/python -m benchmarks.baselines.install resumable fastapi-resumable
	@$(BIN)/python -m benchmarks --plots benchmarks/plots $(ARGS)

bench-quick: setup  ## the same against the direct path and the C floor alone (5 minutes)
	@$(BIN)/python -m benchmarks --quick $(ARGS)

capacity: setup  ## how many jobs and readers one machine carries, and what breaks first (10 minutes)
	@$(BIN)/python -m benchmarks.capacity $(ARGS)

overload: setup  ## ten times more jobs than there is room for, beside answers that run (2 minutes)
	@$(BIN)/python -m benchmarks.overload $(ARGS)

schema: setup  ## schemathesis over the whole OpenAPI document, all checks (CASES= of each operation; 5 minutes)
	@$(BIN)/python -m tests.support.schema_walk --cases $(or $(CASES),450) $(ARGS)

chaos: setup  ## a seeded plan of faults against real processes, every reader's every byte judged (ROUNDS=200 SEED=)
	@$(BIN)/python -m chaos --rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED)) $(ARGS)

drill: setup  ## one promise each, broken on purpose and measured (ARGS="list" shows them; none: all)
	@$(BIN)/python -m chaos.drills $(ARGS)

# atheris is large, and is not made for every system: without it chance alone chooses the inputs.
fuzz: setup  ## two million inputs to what reads strangers' bytes and what writes frames, by chance and led by coverage (10 minutes)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--only-binary :all: --require-hashes -r tests/fuzz/requirements.lock || echo 'atheris cannot be installed here.'
	@$(BIN)/python -W error -m tests.fuzz $(ARGS)

clean:  ## remove the environment and the embedded server's data
	rm -rf $(VENV) .tailrace
