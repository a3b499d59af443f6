"""Adapters of packing to the loaders of other libraries, each of which is loaded when it is used."""
