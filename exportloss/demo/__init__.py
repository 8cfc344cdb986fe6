"""The demonstration: export, training and verification on a data set of drawn shapes."""
