"""Text as numbers: the characters of any UTF-8 file, split for training and validation; Tiny Shakespeare by name."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pooch
from jaxtyping import Int

from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.values import ByValue

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_FILE = "tinyshakespeare.txt"
DATA_VARIABLE = "DYSONJAX_DATA"
"""Environment variable: a folder that is searched before anything is downloaded."""


@dataclass(frozen=True, eq=False)
class Text(ByValue):
    """A text of distinct characters, numbered in the order of their code points.

    `content`: the whole text; `validation`: the share at its end that is never trained on; `name`: where it is from.

    >>> text = Text("to be or not to be", validation=0.5)
    >>> text.characters, text.train.tolist(), text.decode(text.validation_tokens)
    (' benort', [6, 4, 0, 1, 2, 0, 4, 5, 0], 'not to be')
    """

    content: str
    validation: float = 0.1
    name: str = "text"

    def __post_init__(self):
        require(isinstance(self.content, str) and self.content, self.name, self.content, "some characters")
        share = self.validation
        require(isinstance(share, int | float) and 0 < share < 1, "validation", share, "a number between 0 and 1")

    @cached_property
    def characters(self) -> str:
        """Every distinct character once; a token is a place in this string."""
        return "".join(sorted(set(self.content)))

    @cached_property
    def tokens(self) -> Int[np.ndarray, " length"]:
        """The whole text, in the smallest unsigned integers that hold it."""
        return self.encode(self.content)

    @property
    def train(self) -> Int[np.ndarray, " train"]:
        """The first share of the tokens."""
        return self.tokens[: self._cut]

    @property
    def validation_tokens(self) -> Int[np.ndarray, " validation"]:
        """The rest of the tokens."""
        return self.tokens[self._cut :]

    @property
    def _cut(self) -> int:
        return int(len(self.content) * (1 - self.validation))

    def encode(self, text: str) -> Int[np.ndarray, " length"]:
        """Tokens of a text; raises `InputError` for a character that this one does not have."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.frombuffer(self.characters.encode("utf-32-le", "surrogatepass"), np.uint32)
        places = np.minimum(np.searchsorted(known, points), len(known) - 1)
        strange = points[known[places] != points]
        require(not len(strange), "character", chr(strange[0]) if len(strange) else "", f"one of {self.name}")
        return places.astype(np.min_scalar_type(len(known) - 1))

    def decode(self, tokens: Int[np.ndarray, " length"]) -> str:
        """The text of tokens."""
        return "".join(self.characters[int(token)] for token in np.asarray(tokens))

    def check(self, context: int) -> None:
        """Raise `InputError` unless both parts hold a window of `context` characters and the one that follows."""
        shorter = min(len(self.train), len(self.validation_tokens))
        if shorter <= context:
            raise InputError(
                f"text = {self.name!r} with {len(self.train)} characters to train on and "
                f"{len(self.validation_tokens)} to validate: expected more than the context of {context} in both"
            )


def windows(tokens: Int[np.ndarray, " length"], context: int, most: int | None = None) -> Int[np.ndarray, "w T+1"]:
    """Windows [w, context + 1] of tokens side by side, each overlapping the next by one; at most `most`, evenly spread.

    Every character but the first (and a rest shorter than the context) is predicted once.
    """
    count = (len(tokens) - 1) // whole("context", context)
    require(count > 0, "tokens", len(tokens), f"more than the context of {context}")
    picked = np.arange(count) if most is None else np.arange(min(most, count)) * count // min(most, count)
    return np.asarray(tokens)[context * picked[:, None] + np.arange(context + 1)].astype(np.int32)


def load(source: str | os.PathLike[str], validation: float = 0.1) -> Text:
    """The text of a UTF-8 file, or "shakespeare": Tiny Shakespeare, 1,115,394 characters, 65 distinct ones.

    Tiny Shakespeare is taken from the folder that the environment variable DYSONJAX_DATA names, else from the user's
    cache, else downloaded into it; its checksum is compared. Raises `InputError` for a file that is missing, empty or
    no UTF-8, and for a download that fails.

    >>> load("shakespeare").train.shape  # doctest: +SKIP
    (1003854,)
    """
    if source == "shakespeare":
        return Text(_read(shakespeare_file(), "text"), validation, "shakespeare")
    return Text(_read(Path(source), "text"), validation, str(source))


def shakespeare_file() -> Path:
    """Where Tiny Shakespeare is on this machine, downloaded if need be."""
    folder = os.environ.get(DATA_VARIABLE)
    given = Path(folder) / SHAKESPEARE_FILE if folder else None
    if given is not None and given.is_file():
        found = hashlib.sha256(given.read_bytes()).hexdigest()
        require(found == SHAKESPEARE_SHA256, str(given), f"SHA-256 {found}", f"SHA-256 {SHAKESPEARE_SHA256}")
        return given
    cache = Path(pooch.os_cache("dysonjax"))
    try:
        return Path(pooch.retrieve(SHAKESPEARE_URL, f"sha256:{SHAKESPEARE_SHA256}", SHAKESPEARE_FILE, cache))
    except Exception as error:  # requests' own, a checksum's ValueError, a cache that cannot be written
        reason = " ".join(str(error).split())
        raise InputError(
            f"text = 'shakespeare' could not be downloaded: expected {SHAKESPEARE_URL} with SHA-256 "
            f"{SHAKESPEARE_SHA256}; save it as {SHAKESPEARE_FILE} in a folder that {DATA_VARIABLE} names, or in {cache}"
            f" ({type(error).__name__}: {reason[:120]})"
        ) from error


def _read(path: Path, argument: str) -> str:
    require(path.is_file(), argument, str(path), "a file of text, or 'shakespeare'")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{argument} = {str(path)!r}: expected UTF-8, byte {error.start} is not") from error
    except OSError as error:
        raise InputError(f"{argument} = {str(path)!r}: expected a readable file ({error.strerror})") from error
    require(content, argument, str(path), "a file that is not empty")
    return content
