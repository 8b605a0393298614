"""Check of a published function: what imtok's own code makes of a fixture's inputs, under the names of its outputs.

Outputs that a fixture does not store may be among them. weights: of the fixture, empty where it has none.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Tensors = Mapping[str, Tensor]
Check = Callable[[Mapping[str, Any], Tensors, Tensors], dict[str, Tensor]]  # config, io, weights to outputs
