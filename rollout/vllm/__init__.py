"""Rollouts through vLLM: stock vLLM with our worker and scheduler. The only owner of the package vllm."""
