"""The commands of ``python -m include.local_service``."""
