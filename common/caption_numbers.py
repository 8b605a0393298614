"""Captions as the numbers that a text tower reads, which loaders can make ahead of the step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Words = Callable[[list[str]], Tensor]


class CaptionNumbers:
    """make_words: gives the word splitter, captions to [B, length]; called once a process, at the first captions.

    key: where a batch holds the numbers; equal keys mean equal numbers.
    """

    def __init__(self, *, key: str, make_words: Callable[[], Words]) -> None:
        self.key, self.make_words = key, make_words
        self._words: Words | None = None

    def __call__(self, captions: Sequence[str]) -> Tensor:
        if self._words is None:
            self._words = self.make_words()
        return self._words(list(captions))

    def of(self, batch: Mapping[str, Any]) -> Any:
        """The numbers that a loader has made, else the captions."""
        return batch.get("caption_numbers", {}).get(self.key, batch["caption"])
