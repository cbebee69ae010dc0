"""The life of a task: submit, poll, download, record, for one task or many."""
