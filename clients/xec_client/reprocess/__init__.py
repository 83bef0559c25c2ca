"""Offline reprocessing: files of events into parts of results, resumable (docs/reprocess.md)."""
