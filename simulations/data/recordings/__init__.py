"""Continuous recordings in CSV, TSV or Parquet files: windows are cut here (``source.py``)."""
