"""One run's configuration: schema, composition from YAML files, grammar of settings."""
