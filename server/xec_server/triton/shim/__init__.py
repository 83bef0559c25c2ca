"""What runs inside Triton: an ONNX model behind Triton's Python backend.

These files are copied beside `backend/model.py` and run by Triton's own interpreter, which holds
NumPy 1 and ONNX Runtime and nothing else: of `xec` they import what `layout.SHARED` names.
"""
