"""The criteria by name, `config.model.criterion.name`."""

from jaxseg.modeling import rank_sort, sampled_softmax

CRITERIA = {"softmax": sampled_softmax.softmax, "rank_sort": rank_sort.rank_sort}
