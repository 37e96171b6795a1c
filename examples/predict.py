"""Classify an image with ONNX Runtime and Pillow, without torch or googlenet.

usage: python predict.py model.onnx image.jpg

The model includes the preprocessing:
    googlenet export MODEL --to onnx --with-preprocessing --output model.onnx
    pip install onnxruntime pillow
"""

import json
import sys

if len(sys.argv) != 3:
    sys.exit(print(__doc__.strip(), file=sys.stderr) or 2)

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["googlenet"])
mode = "L" if metadata["input"]["channels"] == 1 else "RGB"
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGBA")
on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
pixels = np.asarray(on_white.convert(mode))
images = pixels.reshape(1, *pixels.shape[:2], -1).transpose(0, 3, 1, 2)  # uint8 (1, channels, height, width)
probabilities = session.run(None, {"images": images})[0][0]
for index in probabilities.argsort()[::-1][:3]:
    print(f"{metadata['classes'][index]} {probabilities[index]:.1%}")
