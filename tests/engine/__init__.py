"""Tests of the real Horovod as an engine."""
