"""How operations are written as ONNX nodes: one file for each family."""
