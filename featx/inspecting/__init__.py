"""Looking at a data set: what is in it, what is wrong with it, and a list of it without what is wrong."""

from featx.inspecting.inspection import inspect as inspect
from featx.inspecting.inspection import root_of as root_of
from featx.inspecting.label_list import require_place as require_place
from featx.inspecting.label_list import write_list as write_list
from featx.inspecting.likeness import NEIGHBORS as NEIGHBORS
from featx.inspecting.likeness import SIMILARITY as SIMILARITY
from featx.inspecting.result import Inspection as Inspection
