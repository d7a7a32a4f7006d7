"""Concept distillation, m → m′: the model learns from its own preliminary masks what is object and what is not."""
