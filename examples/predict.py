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
spec = metadata["input"]
mode = "L" if spec["channels"] == 1 else "RGB"
image = Image.open(sys.argv[2])
side = round(spec["size"] / spec["crop_pct"]) if spec["resize"] == "crop" else spec["size"]
image.draft(mode, (2 * side, 2 * side))  # a JPEG of twice this size or more is decoded at half its size
image = ImageOps.exif_transpose(image)
if image.mode.startswith("I") or image.mode == "F":  # 16 bits per channel are scaled to 8, as in training
    values = np.asarray(image).astype(float)
    white = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 1 if values.max() <= 1 else 255
    image = Image.fromarray((values / (white / 255)).clip(0, 255).astype(np.uint8))
image = image.convert("RGBA")
on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
pixels = np.asarray(on_white.convert(mode))
images = pixels.reshape(1, *pixels.shape[:2], -1).transpose(0, 3, 1, 2)  # uint8 (1, channels, height, width)
probabilities = session.run(None, {"images": images})[0][0]
for index in probabilities.argsort()[::-1][:3]:
    print(f"{metadata['classes'][index]} {probabilities[index]:.1%}")
