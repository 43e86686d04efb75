"""What lasts: the event log, the sweep's folder, the files of trials in a remote storage."""
