"""Export of a checkpoint to the model repository: ONNX graph, configuration, model card."""
