"""What the DAGs of this project use: data work, warehouses, the local coding service."""
