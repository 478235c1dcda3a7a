"""How each ONNX operator becomes instructions: one file for each family, found by name."""
