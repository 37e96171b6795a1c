"""Why GoogLeNet converges slowly: the tutorial's network, one thing changed at a time. docs/convergence.md."""
