"""Displays that show nothing, for tests that make a recorder."""

from collections.abc import Mapping


class Silent:
    """Show nothing."""

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class Warnings(Silent):
    """Show nothing, and keep the warnings."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)
