"""What authors write, read and checked: files to the core's frozen records, or every mistake at once with its place."""
