"""Convolutions and their gradients, in the forms that suit each engine."""
