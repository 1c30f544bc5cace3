"""What `actsort apply --json` said about many results, as one table: ``python summary.py sorted/*.json > summary.csv``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

FROM_APPLY = ("recording", "n_cells", "accepted_before", "accepted", "changed", "threshold", "expected_precision", "expected_recall")
COLUMNS = ("path", *FROM_APPLY, "warnings", "error")


def rows(files: Sequence[Path]) -> list[dict[str, object]]:
    """A line for each recording, and one for each result that failed."""
    out: list[dict[str, object]] = []
    for file in files:
        for result in json.loads(file.read_text())["results"]:
            if result["error"]:
                out.append({"path": result["path"], "error": " ".join(result["error"].split())})
            for one in result["recordings"]:
                told = {name: one[name] for name in FROM_APPLY}
                out.append({"path": result["path"], **told, "warnings": "; ".join(one["warnings"])})
    return out


def main() -> int:
    """Write the table to the standard output."""
    table = csv.DictWriter(sys.stdout, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows([Path(name) for name in sys.argv[1:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
