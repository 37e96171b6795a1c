// Classify an image in C++; the exported model includes the preprocessing.
//   googlenet export MODEL --to onnx --with-preprocessing --output model.onnx     (also writes model.onnx.json)
//   g++ -std=c++17 -O2 predict.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o predict
//   ./predict model.onnx image.ppm       (PPM is the simplest file with RGB pixels: convert image.jpg image.ppm)
// ONNXRUNTIME: an archive of https://github.com/microsoft/onnxruntime/releases, unpacked.
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <numeric>
#include <onnxruntime_cxx_api.h>
#include <vector>

int main(int count, char** arguments) {
  if (count != 3) return std::cerr << "usage: predict model.onnx image.ppm\n", 2;
  std::ifstream file(arguments[2], std::ios::binary);
  std::string kind;
  int64_t width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  file.get();
  if (kind != "P6" || most != 255) return std::cerr << arguments[2] << " is not a PPM file with 8 bits\n", 2;
  std::vector<uint8_t> pixels(3 * width * height);
  if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
    return std::cerr << arguments[2] << " is cut off\n", 2;

  Ort::Env environment;
  Ort::Session session(environment, arguments[1], Ort::SessionOptions());
  const int64_t channels = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[1];
  const int64_t area = width * height;
  std::vector<uint8_t> planes(channels * area);  // (1, channels, height, width)
  for (int64_t i = 0; i < area; ++i) {
    const uint8_t* rgb = &pixels[3 * i];
    if (channels == 3) for (int channel = 0; channel < 3; ++channel) planes[channel * area + i] = rgb[channel];
    else planes[i] = (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16;  // ITU-R 601, as in training
  }
  const std::vector<int64_t> shape = {1, channels, height, width};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto images = Ort::Value::CreateTensor<uint8_t>(memory, planes.data(), planes.size(), shape.data(), shape.size());
  const char *input = "images", *output = "probabilities";
  const auto outputs = session.Run(Ort::RunOptions(), &input, &images, 1, &output, 1);
  const float* probabilities = outputs[0].GetTensorData<float>();
  std::vector<size_t> order(outputs[0].GetTensorTypeAndShapeInfo().GetElementCount());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
  for (size_t i = 0; i < std::min<size_t>(3, order.size()); ++i)  // the names are in model.onnx.json, "classes"
    std::cout << "class " << order[i] << " " << 100 * probabilities[order[i]] << "%\n";
}
