"""Where the coding service and the data meet: the bodies of the DAGs' tasks, and what passes between them."""
