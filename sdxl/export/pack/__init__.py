"""A model as another tool's files: diffusers' folder, ONNX, OpenVINO, one file, engines."""
