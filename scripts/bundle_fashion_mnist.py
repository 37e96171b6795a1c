"""Build the part of Fashion-MNIST that comes with the package: the first 1,000 training images of each class, in their
original order, and all test images.   usage: python scripts/bundle_fashion_mnist.py
"""

import gzip
from pathlib import Path

import numpy as np

import googlenet.data
from googlenet.data import fashion_mnist
from googlenet.download import sha256

IMAGES_PER_CLASS = 1_000


def main() -> None:
    dataset = googlenet.load_dataset()
    target = Path(googlenet.data.__file__).parent / "bundled"
    target.mkdir(exist_ok=True)
    labels = dataset.train.labels.numpy()
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:IMAGES_PER_CLASS] for label in range(10)]))
    arrays = {
        "train-images-idx3-ubyte": dataset.train.images.numpy()[chosen, 0],
        "train-labels-idx1-ubyte": labels[chosen].astype(np.uint8),
        "t10k-images-idx3-ubyte": dataset.test.images.numpy()[:, 0],
        "t10k-labels-idx1-ubyte": dataset.test.labels.numpy().astype(np.uint8),
    }
    for name, values in arrays.items():
        content = fashion_mnist.dump_idx(values)
        (target / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
        print(sha256(content), name)


if __name__ == "__main__":
    main()
