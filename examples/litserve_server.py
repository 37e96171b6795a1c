"""Serve a model over HTTP with LitServe; images that arrive together are classified in one batch.

pip install litserve
python litserve_server.py runs/five              a run folder, a model file or a file from googlenet export
curl -F image=@image.jpg http://localhost:8000/predict
"""

import sys

import litserve
from fastapi import Request

from googlenet import Prediction, Predictor


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.predictor = Predictor(sys.argv[1], device=device)

    def decode_request(self, request: Request) -> bytes:
        return request["image"].file.read()  # LitServe passes the form

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, images: list[bytes]) -> list[Prediction]:
        return list(self.predictor.predict(images))

    def unbatch(self, output: list[Prediction]) -> list[Prediction]:
        return output

    def encode_response(self, output: Prediction) -> dict[str, object]:
        return {name: value for name, value in output.to_dict().items() if name != "file"}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(print(__doc__.strip(), file=sys.stderr) or 2)
    server = litserve.LitServer(Classifier(max_batch_size=16, batch_timeout=0.01), accelerator="cpu")
    server.run(port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000, generate_client_file=False)
