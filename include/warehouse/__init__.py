"""Warehouses behind one small interface: read Arrow, write Arrow, run statements. It knows nothing of coding."""
