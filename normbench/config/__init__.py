"""The configuration of a run: schema, YAML files, and the grammar of settings."""
