"""The command line: `mmts COMMAND`. Nothing heavy is imported before a command runs, so that --help is instant."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from mmts import __version__
from mmts.console import console, errors, print_json
from mmts.console import quiet as quietly
from mmts.errors import DataError, Interrupted, MmtsError, RecipeError, RunError, nearest

app = typer.Typer(
    name="mmts",
    help="Train and evaluate image-text and video-text embedding models on long-tail data.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _be_quiet(context: typer.Context, value: bool) -> bool:
    if value:
        context.with_resource(quietly())
    return value


def _trust_code(context: typer.Context, value: bool) -> bool:
    if value:
        from mmts.recipe.run_directory import trusting_code

        context.with_resource(trusting_code())
    return value


def _columns(text: str) -> Any:
    from mmts.recipe.recipe import parse_columns

    return parse_columns(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


_HELP_DATA = "A public data set's folder, captions.jsonl, table, imagefolder, tars, or an address (docs/datasets.md)."
_HELP_COLUMNS = "Columns of paths and captions in a table, if their names are unusual."
_HELP_SETTINGS = "Change a key of the recipe; repeatable."
_HELP_TRUST = "Run code outside mmts that the recipe names."
_HELP_CAPTIONS = "Only write the captions of train (or --split) to this file, one per line."
_HELP_RECIPE = "A shipped recipe or a YAML file (default: mmts picks one that fits the data)."
_HELP_TINY = "Try the recipe in a minute: small random towers, few samples, no data needed."
_HELP_POLICIES = "List losses, rules and schedules, or those in NAME, a .py file."
_HELP_CLASSIFY = "Classify the media by the names of this label's values (docs/classification.md)."
_HELP_PROMPTS = "One template per line for --classify, such as: a photo of a {}."
_HELP_MODEL = "A run, a pretrained model, or an .npz file of embeddings (docs/pretrained.md)."
_HELP_JUDGED = "Folder for a pretrained model's results (default: runs/MODEL-DATA)."
_HELP_ENTRIES = "Concepts are the entries of this file, one per line, that a caption contains."
_HELP_MIN_COUNT = "Concepts are the words that at least N captions contain."
_HELP_OF = "Whose size counts for a sample with several concepts."
_HELP_CONCEPTS = "Concepts of a pretrained model's data: a file, or a label (default: clusters of train's captions)."
_HELP_INTERPOLATE = "Judge (1 - a) start + a tuned weights for these a, such as 0,0.1,...,1."
_HELP_ALSO = "With --interpolate: other data to judge on, too; repeatable."
_HELP_WHERE = "Only items with this value; repeatable."
_HELP_TOTAL = "With cut: training media (default: as many as there can be)."
_HELP_RAY = "Divide the work among a Ray cluster (docs/cluster.md)."
_HELP_JOBS = "Runs at a time, one process and thread each (default: all cores)."
DataPath = Annotated[Path | None, typer.Option("--data", help=_HELP_DATA)]
Columns = Annotated[Any, typer.Option(parser=_columns, metavar="media=NAME,caption=NAME", help=_HELP_COLUMNS)]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_HELP_SETTINGS)]
Run = Annotated[Path, typer.Argument(help="A run directory.")]
Runs = Annotated[list[Path], typer.Argument(help="Run directories, or files in RUN/evaluations/.")]
Names = Annotated[Any, typer.Option(parser=_names, metavar="A,B", help="Names of the rules (default: their folders').")]
Checkpoint = Annotated[str, typer.Option(help="best, last or interpolated.")]
IndexFolder = Annotated[Path | None, typer.Option(help="Folder of the index (default: RUN/index).")]
Ray = Annotated[str | None, typer.Option("--ray", metavar="auto|local|ray://HOST:PORT", help=_HELP_RAY)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_be_quiet, help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", callback=_be_quiet, help="Print only JSON.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", callback=_trust_code, help=_HELP_TRUST)]


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    command, processes = context.invoked_subcommand, int(os.environ.get("WORLD_SIZE", "1"))
    if version:
        console.print(f"mmts {__version__}")
        raise typer.Exit
    if command is None:
        console.print(context.get_help())
    elif command not in ("train", "evaluate", "index") and processes > 1:  # they would all write the same files
        errors.quiet = not _is_main()
        raise RunError(f"mmts {command} runs in one process, but a launcher started {processes}; run it without one")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs per rule.")] = 3,
    quiet: Quiet = False,
) -> None:
    """Compare three rules on real pictures and write a page."""
    from mmts.apps.demo import run_demo

    run_demo(out, seeds)


@app.command()
def analyze(
    path: Annotated[Path, typer.Argument(help="A caption file or data folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results (default: runs/analysis/NAME).")] = None,
    split: Annotated[str | None, typer.Option(help="Use only this split (default: all samples).")] = None,
    label: Annotated[str | None, typer.Option(help="Use this label as the concept instead of clusters.")] = None,
    entries: Annotated[Path | None, typer.Option(metavar="FILE", help=_HELP_ENTRIES)] = None,
    min_count: Annotated[int | None, typer.Option(min=1, metavar="N", help=_HELP_MIN_COUNT)] = None,
    of: Annotated[str, typer.Option(metavar="rarest|commonest|mean", help=_HELP_OF)] = "rarest",
    num_concepts: Annotated[str, typer.Option(help="Number of clusters, or auto.")] = "auto",
    encoder: Annotated[str, typer.Option(help="minilm, tfidf, or a model's name or folder.")] = "minilm",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the clustering.")] = 0,
    columns: Columns = None,
    captions: Annotated[Path | None, typer.Option(help=_HELP_CAPTIONS)] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Report how long-tailed a data set is."""
    from mmts.apps.analysis import analyze_path, write_captions

    if captions is not None:
        result = {"captions": str(captions), "count": write_captions(path, captions, split or "train")}
    else:
        out = out or Path("runs/analysis") / Path(os.path.realpath(path)).stem
        if sum(value is not None for value in (label, entries, min_count)) > 1:
            raise RecipeError("--label, --entries and --min-count each say what a concept is; give one of them")
        made: dict[str, Any] = {"label": label, "of": of, "num_concepts": num_concepts, "encoder": encoder}
        if entries is not None:
            made |= {"source": "words", "file": entries}
        elif min_count is not None:
            made |= {"source": "words", "min_count": min_count}
        result = analyze_path(path, out, split=split, columns=columns, seed=seed, **made)
    if as_json:
        print_json(result)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help=_HELP_RECIPE)] = None,
    data: DataPath = None,
    columns: Columns = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (default: runs/RECIPE).")] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    small: Annotated[bool, typer.Option("--tiny", help=_HELP_TINY)] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train by a recipe and evaluate the result on test."""
    from mmts.apps.runs import closing_lines
    from mmts.recipe.choose import choose_recipe
    from mmts.recipe.recipe import load_recipe
    from mmts.recipe.tiny import example_data, tiny
    from mmts.training.run import train as train_run

    if recipe is None:
        if data is None:
            raise RecipeError("name a recipe (see `mmts recipes`), or give --data PATH and mmts picks one")
        recipe, why = choose_recipe(data, columns)
        console.print(f"recipe {recipe}: {why}")
    chosen = load_recipe(recipe, settings or [])
    if small:
        chosen = tiny(chosen, settings or [])
        if data is None and chosen.data.path is None:
            data = example_data(chosen, Path("runs") / f"{chosen.folder_name}-data")
    chosen = chosen.with_data(data, columns)
    out = out or Path("runs") / chosen.folder_name
    metrics = train_run(chosen, out, resume=resume)
    if _is_main():
        console.print(*closing_lines(out), sep="\n")
        if as_json:
            print_json(metrics)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="A folder with run directories below it.")] = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Redraw the table every two seconds.")] = False,
    as_json: Json = False,
) -> None:
    """List the runs below a folder: which one runs, how far, how good."""
    from mmts.apps import runs as states

    if watch and as_json:
        raise RunError("--watch draws on a terminal; leave out --json, or --watch")
    if watch:
        states.watch(folder)
        return
    found = [states.state_of(path) for path in states.find_runs(folder)]
    console.print(states.runs_table(found, folder))
    if as_json:
        print_json([vars(state) | {"path": str(state.path)} for state in found])


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=_HELP_MODEL)],
    data: DataPath = None,
    columns: Columns = None,
    split: Annotated[str | None, typer.Option(help="The split to evaluate on (default: test).")] = None,
    out: Annotated[Path | None, typer.Option(help=_HELP_JUDGED)] = None,
    concepts: Annotated[str | None, typer.Option(metavar="FILE|LABEL", help=_HELP_CONCEPTS)] = None,
    settings: Settings = None,
    checkpoint: Checkpoint = "best",
    save_embeddings: Annotated[Path | None, typer.Option(help="Also write the embeddings to this .npz file.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Also score by this label of the media; repeatable.")] = None,
    classify: Annotated[str | None, typer.Option(metavar="LABEL", help=_HELP_CLASSIFY)] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help=_HELP_PROMPTS)] = None,
    interpolate: Annotated[str | None, typer.Option(metavar="A,B,...", help=_HELP_INTERPOLATE)] = None,
    also: Annotated[list[Path] | None, typer.Option(help=_HELP_ALSO)] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Evaluate a run again, or on other data; or a pretrained model, or embeddings."""
    from mmts.evaluation.pretrained import evaluate_pretrained
    from mmts.evaluation.run import evaluate as evaluate_run
    from mmts.recipe.run_directory import RunDirectory

    if interpolate is not None:
        from mmts.evaluation.interpolate import interpolate as interpolate_run
        from mmts.evaluation.interpolate import parse_shares

        others = (data, columns, split, out, concepts, settings, save_embeddings, label, classify, prompts)
        if any(others):
            raise RunError("--interpolate judges on val and on --also DATA; besides, it takes only --checkpoint")
        curve = interpolate_run(Path(model), parse_shares(interpolate), also or (), checkpoint)
        if as_json and _is_main():
            print_json(curve)
        return
    if also:
        raise RunError("--also names more data for --interpolate; --data names those to evaluate on")
    judged: dict[str, Any] = {"labels": label or (), "classify_by": classify, "prompts": prompts, "columns": columns}
    problem = RunDirectory(Path(model)).problem()
    if not problem and out is None:
        if concepts or settings:
            raise RunError(f"{model} is a run, which keeps its concepts and its recipe; --out evaluates it anew")
        metrics = evaluate_run(Path(model), data, split, checkpoint, save_embeddings, **judged)
    elif data is None:
        raise RunError(f"{problem or 'with --out a run is evaluated anew'}; for a pretrained model add --data PATH")
    elif checkpoint != "best":
        raise RunError(f"--checkpoint {checkpoint} is for a run; with --out, or a pretrained model, leave it out")
    else:
        judged |= {"concepts": concepts, "settings": settings or (), "embeddings_file": save_embeddings}
        metrics = evaluate_pretrained(model, data, out, split, **judged)
    if as_json and _is_main():
        print_json(metrics)


@app.command()
def compare(runs: Runs, names: Names = None, as_json: Json = False, trust_code: TrustCode = False) -> None:
    """Print runs side by side, with spread over seeds and intervals."""
    from mmts.evaluation.compare import comparison_as_mapping, comparison_tables
    from mmts.evaluation.results import read_results

    results = read_results(runs, names)
    for note in results.notes:
        console.print(f"note: {note}")
    for table in comparison_tables(results):
        console.print(table)
    if as_json:
        print_json(comparison_as_mapping(results))


@app.command()
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    names: Names = None,
    quiet: Quiet = False,
    trust_code: TrustCode = False,
) -> None:
    """Write one self-contained page about runs."""
    from mmts.files import check_file_path
    from mmts.report import write_report

    check_file_path(out)
    console.print(f"report: {write_report(runs, out, names=names)}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
    policies: Annotated[bool, typer.Option("--policies", help=_HELP_POLICIES)] = False,
    as_json: Json = False,
) -> None:
    """List the shipped recipes, or print one."""
    from mmts.recipe.components import described
    from mmts.recipe.recipe import load_recipe, shipped_recipes

    shipped = shipped_recipes()
    if name is None or policies:
        listed = described(name) if policies else {"": {known: load_recipe(known).description for known in shipped}}
        if as_json:
            print_json(listed.get("", listed))
        for title, rows in listed.items():
            table = Table.grid(Column(no_wrap=True), Column(), padding=(0, 2))
            for row in rows.items():
                table.add_row(*row)
            console.print(*([f"{title}:"] if title else []), table, sep="\n")
    elif name not in shipped:
        raise RecipeError(f"there is no shipped recipe {name!r}; {nearest(name, shipped)}")
    elif as_json:
        print_json(load_recipe(name).model_dump(mode="json"))
    else:
        console.print(shipped[name], end="")


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="flickr30k, coco, cc3m, ek100 or youcook2; or cut.")],
    data: Annotated[str | None, typer.Argument(help="With cut: the data, as for --data of train.")] = None,
    root: Annotated[Path | None, typer.Option(help="A public data set's folder.")] = None,
    label: Annotated[str | None, typer.Option(help="With cut: the label of the media that gets a long tail.")] = None,
    imbalance: Annotated[float | None, typer.Option(min=1, max=1e6, help="With cut: largest / smallest class.")] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="With cut: keep the largest (default: all).")] = None,
    total: Annotated[int | None, typer.Option(min=2, help=_HELP_TOTAL)] = None,
    out: Annotated[Path | None, typer.Option(help="With cut: a new folder.")] = None,
    quiet: Quiet = False,
) -> None:
    """Check a public data set's folder, or cut data to a long tail."""
    if name == "cut":
        from mmts.apps.cut import write_cut

        if data is None or label is None or imbalance is None or out is None or root is not None:
            raise DataError("mmts prepare cut DATA needs --label, --imbalance and --out, and takes no --root")
        write_cut(data, out, label, imbalance, classes, total)
        return
    from mmts.apps.prepare import prepare as prepare_set

    if root is None or any((data, label, imbalance, classes, total, out)):
        raise DataError(f"mmts prepare {name} needs --root, the data set's folder, and takes nothing else; cut does")
    prepare_set(name, root)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file (YAML): see docs/sweeps.md.")],
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all runs (default: runs/FILE).")] = None,
    settings: Settings = None,
    jobs: Annotated[int | None, typer.Option(min=1, help=_HELP_JOBS)] = None,
    part: Annotated[str | None, typer.Option(metavar="I/N", help="Make the I-th of N shares of the runs.")] = None,
    ray: Ray = None,
    collect: Annotated[bool, typer.Option("--collect", help="Only write the leaderboard of finished runs.")] = False,
    quiet: Quiet = False,
) -> None:
    """Tune variants on val with equal trials; evaluate on test."""
    from mmts.sweep import run_sweep

    run_sweep(file, data, out or Path("runs") / file.stem, jobs, settings or [], part=part, ray=ray, collect=collect)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check versions, device, decoders and disk."""
    from mmts.apps.doctor import examine, judge

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    judge(findings)


@app.command()
def embed(
    path: Annotated[Path | None, typer.Argument(metavar="DATA", help=_HELP_DATA)] = None,
    model: Annotated[str | None, typer.Option(help="A run, or a pretrained model (docs/pretrained.md).")] = None,
    side: Annotated[str, typer.Option(metavar="text|media", help="What to embed.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Folder of the parts.")] = None,
    part: Annotated[str | None, typer.Option(metavar="I/N", help="Compute the I-th of N shares of the parts.")] = None,
    ray: Ray = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows per part.")] = 16_384,
    split: Annotated[str | None, typer.Option(help="Use only this split (default: all samples).")] = None,
    columns: Columns = None,
    join: Annotated[Path | None, typer.Option(metavar="DIR", help="Only check that DIR is whole.")] = None,
    quiet: Quiet = False,
    trust_code: TrustCode = False,
) -> None:
    """Embed captions or media in parts, which several processes can share."""
    from mmts.cluster import embed as parts

    if join is not None:
        parts.join(join)
        return
    if path is None or model is None or out is None:
        raise RecipeError("DATA, --model and --out must be given: mmts embed DATA --model MODEL --out DIR")
    parts.embed(path, model, side, out, part=part, ray=ray, split_name=split, columns=columns, rows_per_part=rows)


@app.command()
def concepts(
    path: Annotated[Path, typer.Argument(help="Embeddings: folder of mmts embed, .npy or parquet (docs/scaling.md).")],
    num_concepts: Annotated[int, typer.Option(min=2, help="Number of clusters.")],
    out: Annotated[Path, typer.Option(help="File for the concepts, .npz.")],
    part: Annotated[str | None, typer.Option(metavar="I/N", help="Assign the I-th of N shares of the rows.")] = None,
    ray: Ray = None,
    column: Annotated[str, typer.Option(help="Column of embeddings in parquet.")] = "embedding",
    encoder: Annotated[str | None, typer.Option(help="The model that made the embeddings.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the clustering.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Cluster stored embeddings of captions into concepts."""
    from mmts.cluster.concepts import cluster

    cluster(path, num_concepts, out, part=part, ray=ray, column=column, encoder=encoder, seed=seed)


@app.command()
def curate(
    path: Annotated[Path, typer.Argument(metavar="DATA", help=_HELP_DATA)],
    out: Annotated[Path, typer.Option(help="File of the ids to keep: .npy for DataComp's uids, else text.")],
    cap: Annotated[int | None, typer.Option(min=1, help="Keep at most this many media per concept.")] = None,
    power: Annotated[float | None, typer.Option(min=0, max=1, help="Keep n^POWER media of a concept of n.")] = None,
    dedup: Annotated[float | None, typer.Option(help="Leave out media this near to another, as a cosine.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Folder of mmts embed --side media, for --dedup.")] = None,
    label: Annotated[str | None, typer.Option(help="Use this label as the concept instead of clusters.")] = None,
    num_concepts: Annotated[str, typer.Option(help="Number of clusters, or auto.")] = "auto",
    columns: Columns = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the clusters and of the choice.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Choose which training media to keep."""
    from mmts.cluster.curate import curate as choose
    from mmts.recipe.section import validated
    from mmts.recipe.sections import Concepts

    source = "captions" if label is None else "label"
    made = {"source": source, "label": label, "num_concepts": num_concepts, "seed": seed}
    how: dict[str, Any] = {"cap": cap, "power": power, "dedup": dedup, "embeddings": embeddings, "seed": seed}
    choose(path, out, **how, concepts=validated(Concepts, made, "concepts"), columns=columns)


@app.command()
def index(
    run: Run,
    path: Annotated[Path, typer.Argument(help="A folder of images or videos, or any data: see docs/datasets.md.")],
    out: IndexFolder = None,
    checkpoint: Checkpoint = "best",
    quiet: Quiet = False,
    trust_code: TrustCode = False,
) -> None:
    """Index a folder for searching, or bring its index up to date."""
    from mmts.search import build_index

    build_index(run, path, out, checkpoint)


@app.command()
def search(
    run: Annotated[Path, typer.Argument(help="A run directory with an index.")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="Find items similar to this image (or clip, for videos).")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items to find.")] = 10,
    where: Annotated[list[str] | None, typer.Option(metavar="LABEL=VALUE", help=_HELP_WHERE)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page to this file.")] = None,
    export: Annotated[Path | None, typer.Option(help="Also write the items with all columns to a .csv file.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve a search page on this machine.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --serve; 0 picks a free one.")] = 8765,
    index: IndexFolder = None,
    checkpoint: Checkpoint = "best",
    trust_code: TrustCode = False,
) -> None:
    """Search an index of images or clips by words or by a picture."""
    from mmts.search.command import search as search_run

    shown: dict[str, Any] = {"as_json": as_json, "page": html, "table": export, "port": port if serve else None}
    search_run(run, query, image, k=k, where=where or (), **shown, folder=index, checkpoint=checkpoint)


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option(help="sentence-transformers, huggingface, open_clip or onnx.")],
    out: Annotated[Path | None, typer.Option(help="A new folder (default: RUN/FORMAT, such as RUN/onnx).")] = None,
    checkpoint: Checkpoint = "best",
    license: Annotated[str, typer.Option(help="License in the model card, as the hub names it.")] = "unknown",
    push: Annotated[str | None, typer.Option(metavar="NAME", help="Upload to the Hugging Face hub, privately.")] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: let everyone see it.")] = False,
    quiet: Quiet = False,
    trust_code: TrustCode = False,
) -> None:
    """Export a run for sentence-transformers, transformers, open_clip or onnxruntime."""
    from mmts.export import export_run

    export_run(run, to, out, checkpoint, license=license, push=push, public=public)


_INTERRUPTED = 130
# typer has its own copy of click, and exports only a child of this class.
_UsageError: Any = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run the command line; what the user can put right is one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # typer returns it after Ctrl-C
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


def _fail(message: str, code: int = 2) -> int:
    errors.print(f"mmts: {message}", style="red" if errors.is_terminal else None)
    return code


if __name__ == "__main__":
    main()
