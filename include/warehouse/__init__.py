"""One small interface to several warehouses: read and write Arrow, run statements. It knows nothing about coding."""
