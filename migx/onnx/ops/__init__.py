"""The importers of ONNX operators: one file for each family, found by name."""
