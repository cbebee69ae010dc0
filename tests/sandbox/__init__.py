"""The service in miniature, seen by clients that are not ours."""
