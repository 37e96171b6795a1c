"""GoogLeNet compared with AlexNet, NiN, VGG, ResNet-18, SqueezeNet and MobileNetV2. docs/comparison.md."""
