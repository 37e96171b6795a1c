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
const colors = sharp(picture).rotate().flatten({ background: "white" }).toColorspace("srgb");
const { data, info } = await colors.raw().toBuffer({ resolveWithObject: true });
const area = info.width * info.height;
const planes = new Uint8Array(input.channels * area); // (1, channels, height, width)
for (let i = 0; i < area; i++) {
  const [r, g, b] = [data[3 * i], data[3 * i + 1], data[3 * i + 2]];
  if (input.channels === 3) [planes[i], planes[area + i], planes[2 * area + i]] = [r, g, b];
  else planes[i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16; // ITU-R 601, as the model learned it
}
const shape = [1, input.channels, info.height, info.width];
const { probabilities } = await session.run({ images: new ort.Tensor("uint8", planes, shape) });
const ranked = classes.map((name, i) => [name, probabilities.data[i]]).sort((a, b) => b[1] - a[1]);
for (const [name, share] of ranked.slice(0, 3)) console.log(`${name} ${(100 * share).toFixed(1)}%`);
