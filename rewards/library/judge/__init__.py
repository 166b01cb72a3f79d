"""The reward judge: a model behind an OpenAI-compatible endpoint grades the completion."""
