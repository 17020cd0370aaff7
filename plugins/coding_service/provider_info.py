"""What Airflow has to know about this package: its connection type with its form, hooks, operators and triggers.

Airflow calls :func:`get_provider_info` in each process while it loads its configuration, so this imports nothing.
"""

from __future__ import annotations

from typing import Any

PARTNER_API_URL = "https://partner-coder.api.abs.gov.au"
PARTNER_AUTH_URL = "https://partner-coder.auth.abs.gov.au"
INTEGRATION = "WoAG Occupation Coding Service"


def get_provider_info() -> dict[str, Any]:
    """Return the description of the provider in the form of Airflow's `provider_info.schema.json`."""
    return {
        "package-name": "airflow-provider-occupation-coding",
        "name": "Occupation Coding",
        "description": "Codes occupation free text with the batch API of the WoAG Occupation Coding Service.",
        "integrations": [{"integration-name": INTEGRATION, "tags": ["service"]}],
        "hooks": _modules("hooks"),
        "operators": _modules("operators"),
        "sensors": _modules("sensors"),
        "triggers": _modules("triggers"),
        "connection-types": [
            {
                "connection-type": "coding_service",
                "hook-class-name": "coding_service.hooks.CodingServiceHook",
                "hook-name": "Occupation Coding Service",
                "conn-fields": _extra_fields(),
                # `port` has to be shown: Airflow 3.3 does not test a stored connection without one
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    "relabeling": {"host": "API URL", "login": "Client id", "password": "Client secret"},
                    "placeholders": {
                        "host": PARTNER_API_URL,
                        "port": "443",
                        "login": "from the invitation of the service",
                        "password": "from the invitation of the service",
                    },
                },
            }
        ],
    }


def _modules(name: str) -> list[dict[str, Any]]:
    return [{"integration-name": INTEGRATION, "python-modules": [f"coding_service.{name}"]}]


def _extra_fields() -> dict[str, dict[str, Any]]:
    """Return the fields of the extra that the form shows. Airflow stores null for a field that is empty."""
    return {
        "auth_host": {
            "label": "Token URL",
            "description": "Base URL of the token endpoint, of the same tier as the API URL.",
            "schema": {"type": ["string", "null"], "default": PARTNER_AUTH_URL},
        },
        "requests_per_second": {
            "label": "Calls per second",
            "description": "Calls a second that your organisation may make, with all its tasks. Default: 1.",
            "schema": {"type": ["number", "null"], "default": 1, "exclusiveMinimum": 0},
        },
        "requests_per_day": {
            "label": "Calls per day",
            "description": "Calls that your organisation may make in any 24 hours. Default: 10,000.",
            "schema": {"type": ["integer", "null"], "default": 10_000, "minimum": 1},
        },
        "verify": {
            "label": "Verify certificates",
            "description": "true, or the path of a file or folder with the certificate authorities of your"
            " organisation, the same on every machine of Airflow. false switches the check off: for trials only.",
            "schema": {"type": ["string", "null"], "default": "true"},
        },
        "budget_conn_id": {
            "label": "Connection of the call budget",
            "description": "Id of a connection of type Postgres that counts the calls of several machines together."
            " Leave it empty if workers and triggerer run on one machine.",
            "schema": {"type": ["string", "null"], "default": None},
        },
    }
