"""Tests of the sandbox, with other clients."""
