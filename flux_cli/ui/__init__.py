"""What people see: two streams, the progress of tasks, tables and JSON."""
