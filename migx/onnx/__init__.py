"""The ONNX front end: ``reader`` walks the graph, ``ops`` lowers each operator, ``tensors`` maps
weights.
"""
