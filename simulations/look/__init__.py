"""A look at the data before a run: ``facts`` counts, ``advice`` warns, ``show`` and ``plot``."""
