"""Base class of readers of released weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ...common.build import build
from ...common.errors import UserError
from ...common.types import Grid, Latents, Quantized, height_width
from ...common.weights import State, check_state
from ..quantizers.base import Quantizer
from ..tokenizer import Tokenizer

Tensors = Mapping[str, Tensor]
Node = dict[str, Any]  # of YAML
Names = Mapping[str, str | None]
Settings = Mapping[str, Any]  # arguments of the reference's constructor
Part = TypeVar("Part", bound=nn.Module)


@dataclass
class ImportReport:
    """Which keys of the file went where."""

    used: list[str] = field(default_factory=list)  # became ours, or was read and held against what we compute
    ignored: list[str] = field(default_factory=list)  # discriminator, perceptual net, usage buffers ...
    beside: list[str] = field(default_factory=list)  # of the same model but no part of a tokenizer: its text tower


class ReleasedFamily(ABC):
    """One published family: its sizes, its key names, and the outputs that its parity fixtures hold."""

    systems: ClassVar[tuple[str, ...]]
    ignored_prefixes: ClassVar[tuple[str, ...]] = ()  # parts of a training checkpoint that no tokenizer has

    @abstractmethod
    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        """The YAML nodes of the parts of the tokenizer that these weights belong to.

        Sizes are read off the tensors' shapes; `constructor` (the reference's own arguments, may be empty) gives what
        no shape shows.
        """

    @abstractmethod
    def rename(self, state: State, constructor: Settings) -> Names:
        """{name in the file: name in our tokenizer}; None, or left out: not understood."""

    @torch.no_grad()
    def outputs(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        """Everything a parity fixture stores, computed from its stored inputs."""
        return self.steps(tokenizer, io, constructor)

    @abstractmethod
    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        """The same, each step from the stored output of the step before; gradients are off."""

    def import_state(
        self, state: State, *, image_size: int | tuple[int, int] = 256, constructor: Settings | None = None
    ) -> tuple[Tokenizer, ImportReport]:
        """Build the tokenizer and fill it; every key is used, knowingly ignored, or an error by name."""
        found = self.read(state, image_size=image_size, constructor=constructor)
        tokenizer: Tokenizer = build(found.node, key="tokenizer", trusted=False)
        found.fill(tokenizer)
        return tokenizer.eval(), found.report

    def read(
        self, state: State, *, image_size: int | tuple[int, int] = 256, constructor: Settings | None = None
    ) -> "Release":
        """Node and tensors of the tokenizer that the file describes, before anything is built."""
        size = height_width(image_size)
        state = self.prepared(state)
        copies = self.ema_copies(state)
        state = {k: state[copies.get(k, k)] for k in state if k not in set(copies.values())}
        ignored = [k for k in state if k.startswith(self.ignored_prefixes)] if self.ignored_prefixes else []
        state = {k: v for k, v in state.items() if k not in set(ignored)}
        beside = self.beside(state)
        state = {k: v for k, v in state.items() if k not in beside}
        try:
            packed = self.packed(state)
            state = split_up(state, packed)
            joined = self.joined(state)
            state = put_together(state, joined)
            constructor = constructor or {}
            parts = self.tokenizer_node(state, image_size=size, constructor=constructor)
            checked = self.check_tables(state, constructor=constructor)
            state = {k: v for k, v in state.items() if k not in checked}
            names = self.names(state, constructor)
        except KeyError as error:
            raise UserError(
                f"the weights have no {error.args[0]!r}, so they are not of the family {'/'.join(self.systems)}"
            ) from None
        sources = joined | {piece: [name] for name, pieces in packed.items() for piece in pieces}
        used = {copies.get(source, source) for name in names for source in sources.get(name, [name])}
        ignored += [name for name in copies if name in names]  # the live weights, beside their EMA copies
        return Release(
            family=self,
            node={"_target_": "imtok.tokenizers.tokenizer.Tokenizer", "image_size": list(size), **parts},
            tensors={ours: self.convert(ours, state[theirs]) for theirs, ours in names.items()},
            unknown={k: v for k, v in state.items() if k not in names},
            report=ImportReport(sorted([*used, *checked]), sorted(ignored), sorted(beside)),
            names=names,
            packed=packed,
            joined=joined,
        )

    def names(self, state: State, constructor: Settings) -> dict[str, str]:
        return {name: ours for name, ours in self.rename(state, constructor).items() if ours is not None}

    def ema_copies(self, state: State) -> dict[str, str]:
        """{name: name of its EMA copy in the same file}; copies are preferred, as papers evaluate them."""
        return {}

    def beside(self, state: State) -> set[str]:
        """Names of tensors of the published model that are no part of a tokenizer: a text tower, layers never run."""
        return set()

    def alignment(self, state: State) -> tuple[dict[str, Any], dict[str, str]]:
        """({name: node of a loss term}, {name in the file: name in these terms}) of a text tower to keep in alignment/.

        Empty where the file has none, or one that we cannot build.
        """
        return {}, {}

    def packed(self, state: State) -> dict[str, list[str]]:
        """{name: names of the layers that stand one above the other in it}, for layers that were published as one."""
        return {}

    def joined(self, state: State) -> dict[str, list[str]]:
        """{new name: names of tensors that stand one above the other in it}, for layers that were published apart."""
        return {}

    def check_tables(self, state: State, *, constructor: Settings) -> set[str]:
        """Names of tensors that follow from the sizes: checked here, and nothing that we store."""
        return set()

    def prepared(self, state: State) -> State:
        """The file's tensors, changed before anything else looks at them."""
        return state

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        """For families that store a tensor in another shape or order."""
        return tensor

    def not_in_release(self, own: State) -> State:
        """Our own buffers that no release has, with their values: as a rule the initial ones."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Release:
    """A file of published weights, read: the tokenizer's node, its tensors by our names, and how names correspond."""

    family: ReleasedFamily
    node: Node
    tensors: State
    unknown: State  # no name of ours
    report: ImportReport
    names: Mapping[str, str]  # theirs, after `packed` and `joined`, to ours
    packed: Mapping[str, list[str]]
    joined: Mapping[str, list[str]]

    def fill(self, tokenizer: nn.Module, *, without: tuple[str, ...] = ()) -> None:
        """without: beginnings of names that keep the values they have."""
        own = tokenizer.state_dict()
        untrained = {
            **self.family.not_in_release(own),
            **{k: v for k, v in own.items() if k.startswith(without or " ")},
        }
        source = f"the file, read as {self.family.systems[0]},"
        check_state(own, {**untrained, **self.tensors, **self.unknown}, source=source)
        tokenizer.load_state_dict({**untrained, **self.tensors})

    def renamed(self, tensors: State) -> dict[str, Tensor]:
        """Tensors shaped and named as in the file, such as its parameters alone, by our names; gradients pass."""
        tensors = put_together(split_up(tensors, self.packed), self.joined)
        return {ours: self.family.convert(ours, tensors[name]) for name, ours in self.names.items() if name in tensors}


def split_up(state: State, packed: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """With layers that were published as one apart, where they are there."""
    found = dict(state)
    for name, pieces in packed.items():
        if name in found:
            found |= zip(pieces, found.pop(name).chunk(len(pieces)), strict=True)
    return found


def put_together(state: State, joined: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """With tensors that stand one above the other in one, where all are there."""
    found = dict(state)
    for name, pieces in joined.items():
        if all(piece in found for piece in pieces):
            found[name] = torch.cat([found.pop(piece) for piece in pieces])
    return found


def of_class(part: nn.Module | None, kind: type[Part]) -> Part:
    """`part` with its class known: the one that the family's node names."""
    assert isinstance(part, kind), type(part)
    return part


def quantized_in_training(quantizer: Quantizer, latents: Latents) -> Quantized:
    quantizer.train()
    quantized = quantizer(latents)
    quantizer.eval()
    return quantized
