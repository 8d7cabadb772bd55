"""The exact suffix engine: patches of late tokens as rows behind cached prompts; see :class:`Suffix`."""

from workbench.hooks.suffix.ability import Ability, Mode, ability_of
from workbench.hooks.suffix.collected import Rows
from workbench.hooks.suffix.engine import MAX_TOKENS, Suffix, at_columns, notes_into
from workbench.hooks.suffix.rows import Row, Write

__all__ = ["MAX_TOKENS", "Ability", "Mode", "Row", "Rows", "Suffix", "Write", "ability_of", "at_columns", "notes_into"]
