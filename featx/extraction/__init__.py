"""Extraction: pictures x trunk -> feature file.

In the order in which a run goes through them: ``run`` (plan what is missing, have it computed, put the file together),
``recipe`` (what to compute, and the trunk that does), ``census`` (which file is which, by content), ``share`` (pictures
in, blocks of features out, here or in a worker), ``workers`` (shares given out), ``engine`` (what computes, and the
proof that it may), ``pipeline`` (files decoded ahead of the trunk, in batches). ``transformer`` is the same for
scikit-learn's pipelines, without a feature file.
"""

from featx.extraction.census import Census
from featx.extraction.pipeline import as_stored, load_file, run_trunk
from featx.extraction.recipe import Recipe
from featx.extraction.run import Extraction, explain, extract

__all__ = ["Census", "Extraction", "Recipe", "as_stored", "explain", "extract", "load_file", "run_trunk"]
