"""The command line: `mmts COMMAND`. Nothing heavy is imported before a command runs, so that --help is instant."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mmts import __version__
from mmts.console import console, errors, print_json
from mmts.console import quiet as quietly
from mmts.errors import Interrupted, MmtsError, RecipeError, RunError, nearest

app = typer.Typer(
    name="mmts",
    help="Train and judge image-text and video-text embedding models on long-tail data.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", help="Folder for what is written.")]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A public data set's folder, captions.jsonl, CSV, TSV, imagefolder or tars: see docs/datasets.md.",
    ),
]


ColumnNames = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="media=NAME,caption=NAME",
        help="The columns of a table that hold paths and captions, where their names are not usual ones.",
    ),
]


def _be_quiet(context: typer.Context, value: bool) -> bool:
    if value:
        context.with_resource(quietly())
    return value


def _trust_code(context: typer.Context, value: bool) -> bool:
    if value:
        from mmts.recipe.run_directory import trusting_code

        context.with_resource(trusting_code())
    return value


TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", callback=_trust_code, help="Run code outside mmts that the run's recipe names."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_be_quiet, help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", callback=_be_quiet, help="Print JSON, and nothing else.")]


JudgedRuns = Annotated[
    list[Path], typer.Argument(help="Run directories, or files of their evaluations/: judgements on other data.")
]
Names = Annotated[
    str | None,
    typer.Option(
        "--names", metavar="A,B", help="What to call the rules, one name for each; else their folders' names."
    ),
]


def _split_names(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]


def _version(shown: bool) -> None:
    if shown:
        console.print(f"mmts {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        console.print(context.get_help())
    elif context.invoked_subcommand != "train":
        _refuse_launchers(context.invoked_subcommand)


def _refuse_launchers(command: str) -> None:
    """Raise RunError where torchrun or the like started several processes, which would all write the same files."""
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        errors.quiet = os.environ.get("RANK", "0") != "0"
        raise RunError(f"mmts {command} is one process, and a launcher started {processes}; start it by itself")


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each rule.")] = 3,
    quiet: Quiet = False,
) -> None:
    """Compare three rules on real pictures; write a page."""
    from mmts.apps.demo import run_demo

    run_demo(out, seeds)


@app.command()
def analyze(
    path: Annotated[Path, typer.Argument(help="A caption file or data folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for concepts.npz and long_tail.png.")] = None,
    split: Annotated[str | None, typer.Option(help="One split only (default: all samples).")] = None,
    label: Annotated[str | None, typer.Option(help="Take this label as the concept instead of clusters.")] = None,
    num_concepts: Annotated[str, typer.Option(help="Number of clusters, or auto.")] = "auto",
    encoder: Annotated[str, typer.Option(help="minilm, tfidf, or a model's name or folder.")] = "minilm",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the clustering.")] = 0,
    columns: ColumnNames = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Only write the captions of train (or --split) to this file, one per line."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say how long-tailed a caption file is."""
    from mmts.apps.analysis import analyze_path, write_captions

    if captions is not None:
        count = write_captions(path, captions, split or "train")
        if as_json:
            print_json({"captions": str(captions), "count": count})
        return
    found = analyze_path(
        path,
        out or Path("runs/analysis") / Path(os.path.realpath(path)).stem,
        split=split,
        label=label,
        num_concepts=num_concepts,
        encoder=encoder,
        seed=seed,
        columns=columns,
    )
    if as_json:
        print_json(asdict(found))


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A shipped recipe (see `mmts recipes`) or a YAML file; without one, the data choose."),
    ] = None,
    data: DataPath = None,
    columns: ColumnNames = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run directory (default: runs/RECIPE).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; may be given often."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    small: Annotated[
        bool,
        typer.Option("--tiny", help="Try the recipe in a minute: small random towers, few samples, no data needed."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train by a recipe and judge the result on test."""
    from mmts.recipe.choose import choose_recipe
    from mmts.recipe.recipe import load_recipe, parse_columns
    from mmts.recipe.tiny import example_data, tiny
    from mmts.training.run import train as train_run

    chosen_columns = parse_columns(columns)
    if recipe is None:
        if data is None:
            raise RecipeError("name a recipe (see `mmts recipes`), or give --data PATH, and the data choose one")
        recipe, why = choose_recipe(data, chosen_columns)
        console.print(f"recipe {recipe}: {why}")
    chosen = load_recipe(recipe, settings or [])
    if small:
        chosen = tiny(chosen, settings or [])
    if data is None and small and chosen.data.path is None:
        data = example_data(chosen, Path("runs") / f"{chosen.folder_name}-data")
    chosen = chosen.with_data(data, chosen_columns)
    metrics = train_run(chosen, out or Path("runs") / chosen.folder_name, resume=resume)
    if as_json and os.environ.get("RANK", "0") == "0":
        print_json(metrics)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    data: DataPath = None,
    columns: ColumnNames = None,
    split: Annotated[str | None, typer.Option(help="The split to judge on (default: test).")] = None,
    checkpoint: Annotated[str, typer.Option(help="best or last.")] = "best",
    save_embeddings: Annotated[Path | None, typer.Option(help="Also write the embeddings to this .npz file.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Also judge by a label of the media, as article_type; may be given often."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Judge a run again, or on other data."""
    from mmts.recipe.recipe import parse_columns
    from mmts.training.run import evaluate as evaluate_run

    metrics = evaluate_run(
        run, data, split, checkpoint, save_embeddings, columns=parse_columns(columns), labels=label or ()
    )
    if as_json:
        print_json(metrics)


@app.command()
def compare(
    runs: JudgedRuns,
    names: Names = None,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Print runs side by side, with spread and intervals."""
    from mmts.evaluation.compare import compare_runs, comparison_as_mapping, comparison_tables

    comparison = compare_runs(runs, _split_names(names))
    for note in comparison.results.notes:
        console.print(f"note: {note}")
    for table in comparison_tables(comparison):
        console.print(table)
    if as_json:
        print_json(comparison_as_mapping(comparison))


@app.command()
def report(
    runs: JudgedRuns,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    names: Names = None,
    quiet: Quiet = False,
    trust_code: TrustCode = False,
) -> None:
    """Write one self-contained page about runs."""
    from mmts.files import check_file_path
    from mmts.report import write_report

    check_file_path(out)
    console.print(f"report: {write_report(runs, out, names=_split_names(names))}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one.")] = None,
    policies: Annotated[
        bool,
        typer.Option(
            "--policies",
            help="List the losses, rules and schedules that recipes can name, or those of NAME, a Python file.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the shipped recipes, or print one."""
    from mmts.recipe.components import described
    from mmts.recipe.recipe import load_recipe, shipped_recipes

    shipped = shipped_recipes()
    if name is not None and name not in shipped and not policies:
        raise RecipeError(f"there is no shipped recipe {name!r}; {nearest(name, shipped)}")
    listed = described(name) if policies else {"": {each: load_recipe(each).description for each in shipped}}
    if as_json:
        print_json(load_recipe(name).model_dump(mode="json") if name and not policies else listed.get("", listed))
    elif name is not None and not policies:
        console.print(shipped[name], end="")
    else:
        for title, rows in listed.items():
            if title:
                console.print(f"{title}:")
            console.print(_two_columns(rows))


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="flickr30k, coco, cc3m, ek100 or youcook2.")],
    root: Annotated[Path, typer.Option("--root", help="The data set's folder.")],
    quiet: Quiet = False,
) -> None:
    """Check a public data set's folder and count what it holds."""
    from mmts.apps.prepare import prepare as prepare_set

    prepare_set(name, root)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file (YAML): see docs/sweeps.md.")],
    data: DataPath = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for all runs (default: runs/NAME of the file).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe in all runs; may be given often."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time, each a process with one thread (default: one per core).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Tune variants on val with the same number of trials each, and evaluate them on test."""
    from mmts.sweep import run_sweep

    run_sweep(file, data, out or Path("runs") / file.stem, jobs, settings or [])


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check versions, device, decoders and disk."""
    from mmts.apps.doctor import examine, judge

    findings = examine()
    if as_json:
        print_json([asdict(each) for each in findings])
    judge(findings)


@app.command()
def index(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    path: Annotated[Path, typer.Argument(help="A folder of images or videos, or any data: see docs/datasets.md.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the index (default: RUN/index).")] = None,
    quiet: Quiet = False,
    trust_code: TrustCode = False,
) -> None:
    """Index a folder for searching; run it again to add what is new or has changed."""
    from mmts.search import build_index

    build_index(run, path, out)


@app.command()
def search(
    run: Annotated[Path, typer.Argument(help="A run directory with an index.")],
    query: Annotated[str | None, typer.Argument(help="A description of what to find.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="Find items similar to this image (or clip, for a run on videos).")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items to find.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page to this file.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve a search page on this machine.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0 picks a free one.")] = 8765,
    index: Annotated[Path | None, typer.Option("--index", help="Folder of the index (default: RUN/index).")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Search an index of images or clips by a description or a picture."""
    from mmts.search.command import search as search_run

    search_run(run, query, image, k=k, as_json=as_json, page=html, port=port if serve else None, folder=index)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    to: Annotated[str, typer.Option("--to", help="sentence-transformers or onnx.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="A new folder (default: RUN/onnx or RUN/sentence-transformers).")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best or last.")] = "best",
    quiet: Quiet = False,
    trust_code: TrustCode = False,
) -> None:
    """Export a run for sentence-transformers or onnxruntime."""
    from mmts.export import export_run

    export_run(run, to, out, checkpoint)


def _two_columns(rows: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows.items():
        table.add_row(*row)
    return table


def main() -> None:
    """Run the command line; what the user can put right is one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # what typer makes of Ctrl-C
            _fail("stopped; the same command again reuses what was computed so far", code)
    except _UsageError as error:
        code = _fail(f"{' '.join(error.format_message().split())} See `mmts --help`.")
    except Interrupted as error:
        code = _fail(str(error), 128 + error.signal_number)
    except MmtsError as error:
        code = _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}")
    sys.exit(code or 0)


_INTERRUPTED = 130
# typer carries its own copy of click, of which it exports only this class's child.
_UsageError: Any = typer.BadParameter.__mro__[1]


def _fail(message: str, code: int = 2) -> int:
    errors.print(f"mmts: {message}", style="red" if errors.is_terminal else None)
    return code


if __name__ == "__main__":
    main()
