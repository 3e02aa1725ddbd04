"""What is done with a finished run: explanations, unknown classes, other data, ensembles."""
