"""Classify a picture with ONNX Runtime and Pillow alone: no torch, nothing of this package.

googlenet export MODEL --to onnx --with-preprocessing --output model.onnx
pip install onnxruntime pillow
python predict.py model.onnx picture.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
described = json.loads(session.get_modelmeta().custom_metadata_map["googlenet"])
mode = "L" if described["input"]["channels"] == 1 else "RGB"
picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGBA")
on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
pixels = np.asarray(on_white.convert(mode))
images = pixels.reshape(1, *pixels.shape[:2], -1).transpose(0, 3, 1, 2)  # uint8 (1, channels, height, width)
probabilities = session.run(None, {"images": images})[0][0]
for index in probabilities.argsort()[::-1][:3]:
    print(f"{described['classes'][index]} {probabilities[index]:.1%}")
