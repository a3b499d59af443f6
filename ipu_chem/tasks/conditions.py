"""Properties that a language model is given: values of the molecules of a corpus, as tokens that they begin with."""

from typing import Any, Optional, Tuple

import numpy as np

from ipu_chem.config import RunConfig
from ipu_chem.data.conditions import condition_values
from ipu_chem.data.files.layout import TableOptions
from ipu_chem.data.representations.conditions import bin_tokens, put_conditions
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.options import listed
from packing import Ragged
from packing.store import Store
from packing.types import offsets_of


def with_conditions(
    config: RunConfig, tokenizer: Tokenizer, store: Store, given: Optional[Tokenizer]
) -> Tuple[Tokenizer, np.ndarray]:
    """The vocabulary with tokens of the properties that the model is given, and their values, [I, P] float64.

    Bins are those of all molecules read: they divide an input, no target. A vocabulary that is given has its own.

    Raises:
        ValueError: a property has no values, or the vocabulary that is given has others.
    """
    data, names = config.data, listed(config.data.condition)
    have = [one.name for one in tokenizer.properties]
    if given is not None and have != names:
        said, remedy = f"data.condition={data.condition}", f"set data.condition={','.join(have)}"
        if not have:
            raise ValueError(
                f"{said}: the vocabulary that data.tokenizer or training.start_from names has no tokens of properties; "
                "leave it out to train from fresh weights, or leave data.condition out."
            )
        raise ValueError(f"{said or 'data.condition is empty'}: the vocabulary is given {', '.join(have)}; {remedy}.")
    if not names:
        return tokenizer, np.zeros((len(store), 0))
    path, table = getattr(data, "path", ""), TableOptions.of(data, "data.")
    values = condition_values(store, names, path, data.cache, data.limit, data.workers, table)
    if given is None:
        made = (bin_tokens(name, column, data.condition_bins) for name, column in zip(names, values.T))
        tokenizer = tokenizer.with_properties([token for tokens in made for token in tokens])
    return tokenizer, values


def state_conditions(ids: Ragged, tokenizer: Tokenizer, values: np.ndarray, train: np.ndarray, data: Any) -> Ragged:
    """Ids with the tokens of properties [I, P] in place of the unknown ones; some of training molecules are hidden."""
    if not tokenizer.properties:
        return ids
    stated = values.copy()
    hidden = np.random.default_rng([data.split_seed, len(values)]).random((len(train), values.shape[1]))
    stated[train] = np.where(hidden < data.condition_hidden, np.nan, stated[train])
    always = [one.name for one, column in zip(tokenizer.properties, stated[train].T) if not np.isnan(column).any()]
    if always:
        print(
            f"{', '.join(always)}: known of all training molecules, so the model does not learn to do without; set "
            "data.condition_hidden=0.1, or ask for a value whenever it writes molecules"
        )
    changed = np.array(ids.values)
    put_conditions(changed, ids.offsets, tokenizer.properties, stated)
    return Ragged(changed, ids.offsets)


def without_conditions(ids: Ragged, stated: int) -> Ragged:
    """Ids without so many tokens behind the first of every molecule."""
    if not stated:
        return ids
    place = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
    return Ragged(ids.values[(place == 0) | (place > stated)], offsets_of(ids.lengths - stated))
