// Classify an image in Node; the exported model includes the preprocessing.
//   googlenet export MODEL --to onnx --with-preprocessing --output model.onnx     (also writes model.onnx.json)
//   ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node sharp              (skip: without GPU libraries)
//   node predict.mjs model.onnx image.jpg
import { readFileSync } from "node:fs";

const [model, image] = process.argv.slice(2);
if (!model || !image) {
  console.error("usage: node predict.mjs model.onnx image.jpg");
  process.exit(2);
}
const { default: ort } = await import("onnxruntime-node");
const { default: sharp } = await import("sharp");
const { classes, input } = JSON.parse(readFileSync(`${model}.json`, "utf8"));
const session = await ort.InferenceSession.create(model);
const colors = sharp(image).rotate().flatten({ background: "white" }).toColorspace("srgb");
const { data, info } = await colors.raw().toBuffer({ resolveWithObject: true });
const area = info.width * info.height;
const planes = new Uint8Array(input.channels * area); // (1, channels, height, width)
for (let i = 0; i < area; i++) {
  const [r, g, b] = [data[3 * i], data[3 * i + 1], data[3 * i + 2]];
  if (input.channels === 3) [planes[i], planes[area + i], planes[2 * area + i]] = [r, g, b];
  else planes[i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16; // ITU-R 601, as in training
}
const shape = [1, input.channels, info.height, info.width];
const { probabilities } = await session.run({ images: new ort.Tensor("uint8", planes, shape) });
const ranked = classes.map((name, i) => [name, probabilities.data[i]]).sort((a, b) => b[1] - a[1]);
for (const [name, share] of ranked.slice(0, 3)) console.log(`${name} ${(100 * share).toFixed(1)}%`);
