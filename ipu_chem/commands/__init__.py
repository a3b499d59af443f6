"""The commands of `ipu-chem`, each with its arguments and the function behind it."""
