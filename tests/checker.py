"""The type checker behind jaxtyping's import hook: beartype, with whole numbers allowed where floats are asked for."""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
