"""Tests: what users rely on, with real files and real processes."""
