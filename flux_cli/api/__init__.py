"""The service: requests, tasks, status checks, and the HTTP client."""
