"""The job templates of jobs/: where they are, and the one region of each that may be edited.

They are bash that works as it stands. Between a line that begins with `# >>> edit` and one that begins with `# <<< edit` are #SBATCH lines
and variables; the rest is the same for everybody.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidArgument

__all__ = ["BEGIN", "END", "edited", "folder", "line", "names", "text"]

BEGIN, END = "# >>> edit", "# <<< edit"
_SUFFIX = ".sbatch"


def folder() -> Path:
    """Where the templates and the scripts beside them are: in an installed package, an editable install, or a checkout.

    Raises InvalidArgument where they are missing.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package / "jobs", package.parent / "jobs"]
    for place in places:
        if (place / f"cpu{_SUFFIX}").is_file():
            return place
    raise InvalidArgument(f"the job templates are missing; looked for in {' and '.join(map(str, places))}. Cure: install hpcdl again")


def names() -> list[str]:
    """The names of the templates, sorted."""
    return sorted(path.stem for path in folder().glob(f"*{_SUFFIX}"))


def text(name: str) -> str:
    """The template `name` as it stands. Raises InvalidArgument that lists the known ones."""
    if name not in names():
        raise InvalidArgument(f"unknown template {name!r}; known: {', '.join(names())}")
    return (folder() / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def line(template: str, begins: str) -> str:
    """The line of a template that begins so."""
    return next(line for line in template.splitlines() if line.startswith(begins))


def edited(template: str, lines: list[str]) -> str:
    """`template` with `lines` in place of those of its edit region.

    >>> edited("#!/bin/bash\\n# >>> edit\\na=1\\n# <<< edit\\necho $a\\n", ["a=2"])
    '#!/bin/bash\\n# >>> edit\\na=2\\n# <<< edit\\necho $a\\n'
    """
    old = template.splitlines()
    begin = next(i for i, line in enumerate(old) if line.startswith(BEGIN))
    end = next(i for i, line in enumerate(old) if line.startswith(END))
    return "\n".join([*old[: begin + 1], *lines, *old[end:]]) + "\n"


if __name__ == "__main__":
    print(folder())
