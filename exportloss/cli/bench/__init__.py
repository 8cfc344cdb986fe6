"""`exportloss bench`."""
