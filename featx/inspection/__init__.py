"""Inspection of a data set: what is in it, what is wrong with it, and a list of it without what is wrong."""

from featx.inspection.inspection import Inspection as Inspection
from featx.inspection.inspection import inspect as inspect
from featx.inspection.label_list import require_list_path as require_list_path
from featx.inspection.label_list import write_list as write_list
from featx.inspection.sizes import Sizes as Sizes
from featx.inspection.source import root_of as root_of
from featx.inspection.troubles import Copies as Copies
from featx.inspection.troubles import Pair as Pair
