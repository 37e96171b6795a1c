// Classify a picture in Node: the exported model prepares it by itself.
//   googlenet export MODEL --to onnx --with-preprocessing --output model.onnx     (model.onnx.json beside it has the classes)
//   ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node sharp              (skip: what is for GPUs)
//   node predict.mjs model.onnx picture.jpg
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";

const [model, picture] = process.argv.slice(2);
const { classes, input } = JSON.parse(readFileSync(`${model}.json`, "utf8"));
const session = await ort.InferenceSession.create(model);
const onWhite = sharp(picture).rotate().flatten({ background: "white" });
const image = input.channels === 1 ? onWhite.greyscale() : onWhite.toColourspace("srgb");
const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
const planes = new Uint8Array(data.length); // (1, channels, height, width)
for (let i = 0; i < data.length; i++) {
  planes[(i % info.channels) * info.width * info.height + Math.floor(i / info.channels)] = data[i];
}
const shape = [1, info.channels, info.height, info.width];
const { probabilities } = await session.run({ images: new ort.Tensor("uint8", planes, shape) });
const ranked = classes.map((name, i) => [name, probabilities.data[i]]).sort((a, b) => b[1] - a[1]);
for (const [name, share] of ranked.slice(0, 3)) console.log(`${name} ${(100 * share).toFixed(1)}%`);
