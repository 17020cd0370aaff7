# Everything a person calls. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run up down test compose-test lint bench lock clean
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: $(VENV)/installed  ## set everything up, code the sample through Airflow, show the result, stop
	@$(BIN)/python -m include.stack run

up: $(VENV)/installed  ## start Airflow and the local coding service, and leave them running
	@$(BIN)/python -m include.stack up

down: $(VENV)/installed  ## stop what `make up` started
	@$(BIN)/python -m include.stack down

test: $(VENV)/installed-dev  ## the whole test suite, shared out among two processes
	$(BIN)/python -m pytest --numprocesses 2 --durations 20

compose-test: $(VENV)/installed-dev  ## the main job in containers; takes docker with compose, and minutes
	$(BIN)/python -m pytest -v tests/compose

lint: $(VENV)/installed-dev  ## ruff, mypy, who may import whom, and what a service in a container must have
	$(BIN)/python -m pip check --disable-pip-version-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy plugins/coding_service include dags
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yaml
	! docker compose version >/dev/null 2>&1 || docker compose --env-file .env.example config --quiet
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_compose_file.py

bench: $(VENV)/installed-dev  ## measure, side by side in one run, and write docs/performance.md
	@$(BIN)/python -m bench

lock: $(VENV)/installed-dev  ## resolve requirements*.txt anew into the locks
	$(BIN)/uv pip compile requirements.txt --quiet --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-strip-extras -o requirements.lock
	$(BIN)/uv pip compile requirements-dev.txt --quiet --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-strip-extras -c requirements.lock -o requirements-dev.lock

clean: down  ## remove the environment and all that ran in it, the embedded warehouse included
	rm -rf $(VENV) .run

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=python3.12, say") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { echo 'No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv'; rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/installed: requirements.lock | $(VENV)/python
	@echo 'Installing what requirements.lock pins into $(VENV) (about a minute)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@touch $@
