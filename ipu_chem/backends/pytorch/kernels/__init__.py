"""Parts of models in machine code, for CPUs: equal to their torch form, which is there without a compiler, too."""
