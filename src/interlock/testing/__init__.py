"""Tools to test locks with: the conformance suite of engines, the simulator of interleavings."""
