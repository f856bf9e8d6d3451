"""Names that settings choose from, as types, for signatures, for the command line, and for the rooms that check them.

They stand below all rooms because the rooms load NumPy, scikit-learn or Keras, which neither ``--help`` nor a press of
Tab can wait for.
"""

from __future__ import annotations

from typing import Literal, get_args

Pooling = Literal["none", "avg", "max"]
Resize = Literal["stretch", "crop", "pad"]
Preprocessing = Literal["auto", "caffe", "tf", "torch", "none", "rescale"]
Dtype = Literal["float16", "float32"]
Precision = Literal["float32", "bfloat16", "float16"]
Engine = Literal["auto", "keras", "openvino"]
Input = Literal["flat", "avg", "max"]
Split = Literal["test", "validation", "train"]
Rule = Literal["best", "one-se"]
SweptHead = Literal["bn-mlp", "mlp"]
Pruner = Literal["median", "hyperband", "none"]
Scratch = Literal["cnn4", "alexnet"]
Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "constant"]
Kept = Literal["best", "last"]
Method = Literal["cam", "gradcam"]

HeadName = Literal["bn-mlp", "mlp", "logreg", "svm", "ridge", "knn"]

HEADS: tuple[str, ...] = get_args(HeadName)
TUNED_HEADS = tuple(name for name in HEADS if name != "knn")  # which has no gradient
