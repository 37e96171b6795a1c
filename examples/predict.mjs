// Classify a picture in Node: the exported model prepares it by itself.
//   googlenet export MODEL --to onnx --with-preprocessing --output model.onnx
//   npm install onnxruntime-node sharp
//   node predict.mjs model.onnx classes.json picture.jpg      (classes.json: ["name", ...], from model.onnx's metadata)
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";

const [model, classes, picture] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model);
const names = JSON.parse(readFileSync(classes, "utf8"));
const channels = Number(process.env.CHANNELS ?? 3);
const image = sharp(picture).rotate().flatten({ background: "white" }).toColourspace(channels === 1 ? "b-w" : "srgb");
const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
const planes = new Uint8Array(data.length); // (1, channels, height, width)
for (let i = 0; i < data.length; i++) {
  planes[(i % channels) * info.width * info.height + Math.floor(i / channels)] = data[i];
}
const shape = [1, channels, info.height, info.width];
const { probabilities } = await session.run({ images: new ort.Tensor("uint8", planes, shape) });
const ranked = names.map((name, i) => [name, probabilities.data[i]]).sort((a, b) => b[1] - a[1]);
for (const [name, share] of ranked.slice(0, 3)) console.log(`${name} ${(100 * share).toFixed(1)}%`);
