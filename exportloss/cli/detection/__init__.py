"""`exportloss val` and `exportloss detect`."""
