"""The version, baked in: asking importlib.metadata costs 40 ms at every start."""

__version__ = "0.1.0"
