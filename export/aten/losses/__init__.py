"""The operators of this package's own losses, where ATen's would be slower or less exact."""
