# Every command of the project; `make help` lists them. Each target installs the packages that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/requirements.installed $(VENV)/requirements-local.installed $(VENV)/provider.installed
DEVELOPMENT := $(RUNTIME) $(VENV)/requirements-dev.installed
RESOLVE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras

.NOTPARALLEL:
.PHONY: help run up down test test-ui screenshots browser compose-test lint deptry bench sizes soak audit sbom mutants pin-images lock clean
help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: $(RUNTIME)  ## start everything, code the sample through Airflow, show the result, stop
	@$(BIN)/python -m include.stack run

up: $(RUNTIME)  ## start Airflow and the local coding service, and leave them running
	@$(BIN)/python -m include.stack up

down: $(RUNTIME)  ## stop what `make up` started
	@$(BIN)/python -m include.stack down

test: $(DEVELOPMENT) browser  ## run the whole test suite in two processes
	$(BIN)/python -m pytest --numprocesses 2 --max-worker-restart 0 --durations 20

test-ui: $(DEVELOPMENT) browser  ## run the tests of the UI in a real browser; fails if none can be installed
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest --durations 5 tests/browser

screenshots: $(DEVELOPMENT) browser  ## take the pictures of docs/images again, with the tests of the UI
	@mkdir -p docs/images
	REQUIRE_BROWSER=1 SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser

# Debian's Chromium, as root or by a sudo that asks for no password. Elsewhere, the tests of the UI are skipped.
FIND_BROWSER := command -v "$${CHROMIUM:-chromium}" || command -v google-chrome
AS_ROOT := $(shell test "$$(id -u)" = 0 || echo sudo --non-interactive)
APT_GET := $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20
browser:
	@{ $(FIND_BROWSER); } >/dev/null || { echo 'Installing Chromium for the tests of the UI' \
		&& { $(APT_GET) update && $(APT_GET) install -y --no-install-recommends chromium; } >/dev/null 2>&1; } \
		|| echo 'It cannot be installed here, so the tests of the UI are skipped. Set CHROMIUM to a Chromium or Chrome.'

compose-test: $(DEVELOPMENT)  ## run the main job in containers; needs docker with compose, takes minutes
	$(BIN)/python -m pytest -v tests/compose

lint: deptry  ## check packages, style, types, imports, secrets and the compose file
	$(BIN)/python -m pip check --disable-pip-version-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yaml
	! docker compose version >/dev/null 2>&1 || docker compose --env-file .env.example config --quiet
	$(BIN)/python -m pytest -q tests/project
	@# once a day and after a change of a lock, because the audit asks for every package
	@find $(VENV)/audited -mtime -1 $(foreach lock,$(wildcard requirements*.lock),-newer $(lock)) 2>/dev/null | grep -q . \
		|| $(MAKE) --silent audit

audit: $(DEVELOPMENT)  ## look for known vulnerabilities of the packages; skipped without network
	@$(BIN)/python -m bench.audit
	@touch $(VENV)/audited

sbom: $(DEVELOPMENT)  ## write a bill of materials of each lock file to build/sbom (CycloneDX JSON)
	@mkdir -p build/sbom
	@for lock in requirements*.lock; do \
		$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
			--output-file build/sbom/$${lock%.lock}.cdx.json $$lock 2>/dev/null || exit 1; \
	done; ls build/sbom/*

mutants: $(DEVELOPMENT)  ## measure how many small faults the tests notice; at most an hour (OPTIONS="--minutes 10 MODULE")
	@$(BIN)/python -m bench.mutants $(OPTIONS)

# production code, then the local service, then everything: each may import only the packages of its purpose
deptry: $(DEVELOPMENT)
	$(BIN)/deptry dags plugins include --extend-exclude include/local_service --optional-dependencies-dev-groups local,dev
	$(BIN)/deptry include/local_service --optional-dependencies-dev-groups dev --ignore DEP002
	$(BIN)/deptry dags plugins include bench tests

bench: $(DEVELOPMENT)  ## measure the data steps beside others and write docs/performance.md; fails if a ratio fell behind
	@$(BIN)/python -m bench $(OPTIONS)

sizes: $(DEVELOPMENT)  ## look for sizes that run out of memory: 60 of them, up to 10 million records; about an hour
	@$(BIN)/python -m bench.sizes

MINUTES ?= 60
soak: $(DEVELOPMENT)  ## crash every process at every step, and every fault; writes docs/reliability.md in MINUTES (60)
	@PYTHONPATH=.:plugins $(BIN)/python -m tests.reliability --minutes $(MINUTES) --page docs/reliability.md $(OPTIONS)

pin-images: $(RUNTIME)  ## pin the container images of others by digest; needs docker and its registry
	@$(BIN)/python -m include.stack.image_pins

lock: $(DEVELOPMENT)  ## resolve requirements*.txt into the lock files
	$(RESOLVE) requirements.txt -o requirements.lock
	$(RESOLVE) requirements-local.txt -c requirements.lock -o requirements-local.lock
	$(RESOLVE) requirements-dev.txt -c requirements.lock -c requirements-local.lock -o requirements-dev.lock

clean: down  ## remove the environment and everything that ran in it, the embedded warehouse included
	rm -rf $(VENV) .run build

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}. Set PYTHON, for example PYTHON=python3.12.") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { echo 'Cannot create a virtual environment. On Debian and Ubuntu: apt install python3-venv'; rm -rf $(VENV); exit 1; }
	@touch $@

# The provider, as a link to its folder in plugins. Its build backend, setuptools, is one of the packages of the lock.
$(VENV)/provider.installed: pyproject.toml $(VENV)/requirements.installed
	@echo 'Installing the provider into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@

# One stamp file per lock file, so that a change in one lock installs only the packages of that lock.
$(VENV)/%.installed: %.lock | $(VENV)/created
	@echo 'Installing the packages of $< into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@
