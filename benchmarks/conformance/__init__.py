"""How much of ONNX runs: the backend suite that ships in the onnx package, case by case."""
