"""A trained network as one file: writing it (deployed.py), and running an ONNX file without torch (onnx_file.py)."""
