"""The teachers of cfg.teacher by name: each is built when the first term asks for it, and once."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...common.build import build
from ...common.errors import UserError, did_you_mean
from .base import SemanticTeacher


class NamedTeachers:
    """nodes: {name: node} of the YAML; `key` prefixes names in error lines."""

    def __init__(
        self, nodes: Mapping[str, Any] | None = None, *, key: str = "teacher", trusted: bool | Sequence[str] = True
    ) -> None:
        self.nodes = {name: dict(node) for name, node in (nodes or {}).items() if node is not None}
        self.key, self.trusted = key, trusted
        self._built: dict[str, SemanticTeacher] = {}

    def get(self, name: str, *, asked_by: str) -> SemanticTeacher:
        """asked_by: the key of the setting that names this teacher."""
        if name not in self.nodes:
            there = did_you_mean(name, self.nodes) if self.nodes else "none is selected"
            raise UserError(f"{asked_by}={name}: no such teacher; {there} (teacher=[{name}] selects one)")
        if name not in self._built:
            found = build(self.nodes[name], key=f"{self.key}.{name}", trusted=self.trusted)
            if not isinstance(found, SemanticTeacher):
                raise UserError(f"{self.key}.{name}._target_={self.nodes[name]['_target_']}: not a SemanticTeacher")
            self._built[name] = found
        return self._built[name]

    @property
    def unused(self) -> list[str]:
        return [name for name in self.nodes if name not in self._built]
