"""Looking at a data set: what is in it, what is wrong with it, and a list of it without what is wrong."""

from featx.inspection.inspection import inspect as inspect
from featx.inspection.inspection import root_of as root_of
from featx.inspection.label_list import require_place as require_place
from featx.inspection.label_list import write_list as write_list
from featx.inspection.likeness import NEIGHBORS as NEIGHBORS
from featx.inspection.likeness import SIMILARITY as SIMILARITY
from featx.inspection.result import Inspection as Inspection
