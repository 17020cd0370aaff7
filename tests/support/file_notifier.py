"""A notifier that appends a line of JSON to a file for each alert. Like many notifiers, it has no async variant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier


class FileNotifier(BaseNotifier):
    template_fields = ("subject", "message")

    def __init__(self, path: str, subject: str, message: str = "") -> None:
        super().__init__()
        self.path, self.subject, self.message = path, subject, message

    def notify(self, context: Any) -> None:
        with Path(self.path).open("a") as file:
            file.write(json.dumps({"subject": self.subject, "message": self.message}) + "\n")


def read_alerts(path: Path) -> list[dict[str, str]]:
    """Return the alerts that have been written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
