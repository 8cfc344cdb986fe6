"""`exportloss export`."""
