"""Parts of models in native kernels, for CPUs: equal to their torch form, which is there without a compiler, too."""
