"""Airflow for tests: a home of its own, this project's plugins, and no connection but those that a test sets."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What points tests/contract to the real service; nothing else reads them
KEPT = {f"CODING_{name}" for name in ("SERVICE_URL", "AUTH_URL", "CLIENT_ID", "CLIENT_SECRET")}

# Airflow reads these when it is imported, which is after this file
_home = tempfile.mkdtemp(prefix="airflow-home-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "AIRFLOW__", "CODING_"))]:
    if name not in KEPT:
        del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": _home,
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
}
sys.path.insert(0, str(ROOT / "dags"))
