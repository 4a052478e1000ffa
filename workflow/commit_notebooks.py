"""make notebooks: run every notebook in place from a clean kernel, renew headers and indexes, strip what changes for
no reason.

What is committed is what this writes. The header of a notebook, the index in 00 and the README's table come from the
notebooks' metadata.
"""

import argparse
import platform
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from reidnb.files import atomic_write
from reidnb.ledger import render_between

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # as JupyterLab saves it


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").rglob("[0-9]*.ipynb")))
    parser.add_argument("--no-run", action="store_true", help="only renew headers and indexes")
    args = parser.parse_args()
    for path in map(Path.resolve, args.notebooks):
        notebook = nbformat.read(path, as_version=4)
        if not args.no_run:
            started = time.time()
            NotebookClient(
                notebook,
                timeout=1200,
                kernel_name="python3",
                coalesce_streams=True,
                resources={"metadata": {"path": str(path.parent)}},
            ).execute()
            about = notebook.metadata.setdefault("reidnb", {})
            about["seconds"] = round(time.time() - started)
            about["last_run"] = (
                f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__.split('+')[0]}, {platform.machine()} CPU"
            )
            print(f"{path.relative_to(ROOT)}: {about['seconds']} s")
        write(clean(notebook), path)
    index = markdown_index()
    first = ROOT / "notebooks" / "00_start_here.ipynb"
    notebook = nbformat.read(first, as_version=4)
    for cell in notebook.cells:
        if "<!-- index -->" in cell.source:
            cell.source = between(cell.source, "index", index)
    write(notebook, first)
    render_between(ROOT / "README.md", "notebooks", index.replace("](", "](notebooks/"))


def clean(notebook):
    """Renew the header; drop timings, widget state and empty outputs."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = KERNEL
    about = notebook.metadata.get("reidnb", {})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in map(without_widget, cell.outputs) if worth_keeping(o)]
        elif "<!-- header -->" in cell.source:
            header = (
                f"*Papers:* {about.get('papers', '')}. *Time:* about {about.get('seconds', '?')} s under `quick` on a "
                f"laptop's CPU. *Last run:* {about.get('last_run', 'not yet')}."
            )
            cell.source = between(cell.source, "header", header)
    return notebook


def without_widget(output):
    """A widget is dead on a page: of its output the picture that stands in for it stays, or nothing."""
    if output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None) is not None:
        output.data = {} if set(output.data) <= {"text/plain"} else output.data
    return output


def worth_keeping(output):
    """Not the note that something is drawn or decoded for the first time, nor what is empty."""
    if output.get("data") == {}:
        return False
    return output.get("name") != "stderr" or not all(line.startswith("reidnb: ") for line in output.text.splitlines())


def markdown_index():
    """The table of notebooks, from their metadata."""
    lines = ["| notebook | what it shows | papers | time (`quick`) |", "| --- | --- | --- | --- |"]
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        about = nbformat.read(path, as_version=4).metadata.get("reidnb", {})
        shown = [f"[{path.stem}]({path.name})", *(about.get(key, "") for key in ("shows", "papers"))]
        lines.append(f"| {' | '.join(shown)} | {about.get('seconds', '?')} s |")
    return "\n".join(lines)


def between(text, name, inner):
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return f"{text.split(start)[0]}{start}\n{inner}\n{end}{text.split(end)[1]}"


def write(notebook, path):
    atomic_write(path, lambda file: nbformat.write(notebook, file))


if __name__ == "__main__":
    main()
