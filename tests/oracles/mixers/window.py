"""Attention's equations through a window."""
from attention import LAYERS, layer
