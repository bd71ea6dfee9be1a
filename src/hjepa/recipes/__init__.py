"""Complete, named configurations (YAML files beside this one)."""
