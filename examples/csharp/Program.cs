// Classify an image in C#; the exported model includes the preprocessing.
//   googlenet export MODEL --to onnx --with-preprocessing --output model.onnx     (also writes model.onnx.json)
//   dotnet new console && dotnet add package Microsoft.ML.OnnxRuntime && dotnet add package SixLabors.ImageSharp
//   dotnet run -- model.onnx image.jpg
using System.Text.Json;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using SixLabors.ImageSharp;
using SixLabors.ImageSharp.PixelFormats;
using SixLabors.ImageSharp.Processing;

var (model, file) = (args[0], args[1]);
var metadata = JsonDocument.Parse(File.ReadAllText(model + ".json")).RootElement;
var classes = metadata.GetProperty("classes").EnumerateArray().Select(name => name.GetString()).ToArray();
var channels = metadata.GetProperty("input").GetProperty("channels").GetInt32();

using var image = Image.Load<Rgba32>(file);
image.Mutate(change => change.AutoOrient().BackgroundColor(Color.White));
var images = new DenseTensor<byte>([1, channels, image.Height, image.Width]);
for (var y = 0; y < image.Height; y++)
    for (var x = 0; x < image.Width; x++)
    {
        var pixel = image[x, y];
        if (channels == 3) (images[0, 0, y, x], images[0, 1, y, x], images[0, 2, y, x]) = (pixel.R, pixel.G, pixel.B);
        else images[0, 0, y, x] = (byte)((19595 * pixel.R + 38470 * pixel.G + 7471 * pixel.B + 32768) >> 16); // ITU-R 601
    }

using var session = new InferenceSession(model);
using var outputs = session.Run([NamedOnnxValue.CreateFromTensor("images", images)]);
var probabilities = outputs[0].AsEnumerable<float>().ToArray();
foreach (var index in Enumerable.Range(0, classes.Length).OrderByDescending(index => probabilities[index]).Take(3))
    Console.WriteLine($"{classes[index]} {probabilities[index]:P1}");
