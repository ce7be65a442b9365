"""The command line."""

from dysonjax.cli.app import main

__all__ = ["main"]
