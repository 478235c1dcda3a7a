"""How the operations of this package are written as ONNX nodes."""
