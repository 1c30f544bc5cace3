"""``python -m actsort_core``: the command line where the ``actsort`` script is not on the path."""

from actsort_core.cli import main

if __name__ == "__main__":
    main(prog_name="actsort")
