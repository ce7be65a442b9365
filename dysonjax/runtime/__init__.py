"""Where a run computes: devices, the processes of one run and the loss of one, the progress bar."""
