"""Supported and unsupported operators of PopTorch."""
