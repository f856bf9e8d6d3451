"""How the command line calls a parameter: for the commands themselves, for their errors, and for whoever prints one."""

IRREGULAR = {
    "as_json": "--json",
    "class_name": "--class",
    "n_neighbors": "--neighbors",
    "n_rows": "--rows",
    "random_state": "--seed",
}


def option_of(parameter: str) -> str:
    """Option of a parameter of the library: ``--batch-size`` of ``batch_size``, ``--seed`` of ``random_state``."""
    return IRREGULAR.get(parameter, "--" + parameter.replace("_", "-"))
