"""Extraction: pictures x trunk -> feature file.

In the order in which a run goes through them: ``run`` (look up what is stored, compute what is missing, put the file
together), ``recipe`` (what to compute, and the trunk that does), ``manifest`` (the rows that the file is to hold), from
``identity`` (what the trunk's features are filed under) and ``census`` (content ids of the files); ``computation`` (of
missing rows), by ``share`` (pictures in, blocks of features out, here or in a worker), ``workers`` (shares given out),
``engine`` (what computes, and the proof that it may) and ``pipeline`` (files decoded ahead of the trunk, in batches);
``assembly`` (of the finished file). ``planning`` says what a run would compute. ``transformer`` is the same for
scikit-learn's pipelines, without a feature file.
"""

from featx.extraction.pipeline import features_of, load_file
from featx.extraction.planning import ExtractionPlan, OtherSpec, plan
from featx.extraction.recipe import NetworkFields, Recipe, RecipeFields
from featx.extraction.run import Extraction, extract

__all__ = [
    "Extraction",
    "ExtractionPlan",
    "NetworkFields",
    "OtherSpec",
    "Recipe",
    "RecipeFields",
    "extract",
    "features_of",
    "load_file",
    "plan",
]
