"""Golden vectors of pure functions (shared/parity/functions): which of our own code answers for which name."""

from .binary import FUNCTIONS as BINARY
from .codebooks import FUNCTIONS as CODEBOOKS
from .losses import FUNCTIONS as LOSSES
from .token_dropout import FUNCTIONS as TOKEN_DROPOUT

FUNCTIONS = LOSSES | CODEBOOKS | BINARY | TOKEN_DROPOUT
