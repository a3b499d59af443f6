"""Models in static shapes, on torch alone: they know nothing of data sets or devices."""
