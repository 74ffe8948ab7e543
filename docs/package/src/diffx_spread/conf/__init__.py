"""YAML that diffx finds through the entry point group `diffx.conf`."""
