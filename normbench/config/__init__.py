"""One run's configuration: its schema, the YAML files it is composed of, and the grammar of settings."""
