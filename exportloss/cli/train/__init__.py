"""`exportloss train`."""
